"""A tuned model in use: loaded, predicting, serving several tasks, exported."""

"""`peftbench layers`: where a budget went."""

import json

from peftbench.results import Record
from support.runs import SMALL


def test_layers_shows_where_a_budget_went(cli, tmp_path):
    words = [*SMALL, "trainer.epochs=1", "trainer.max_batches=2", "data.batch_size=20"]
    assert cli(*words, "method=spt_lora", "method.budget=0.02")[0] == 0
    (folder,) = tmp_path.glob("spt_lora-*")
    plan = json.loads((folder / "result.json").read_text())["plan"]
    status, out, _ = cli_verb("layers", str(folder))
    assert status == 0
    assert f"{plan['trainable']:,} trainable of a budget of {plan['budget']:,}" in out
    assert all(row["name"].rpartition(".")[0] in out for row in plan["layers"])


def cli_verb(*words):
    import contextlib
    import io

    from peftbench.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(list(words))
    return status, out.getvalue(), err.getvalue()


def test_layers_says_what_it_needs(tmp_path):
    for words, told in [
        (["layers"], "expected one run folder"),
        (["layers", str(tmp_path)], "there is no result.json"),
        (["layrs"], "did you mean 'layers'"),
    ]:
        status, _, err = cli_verb(*words)
        assert status == 2
        assert told in err
    Record("r", "complete", {"method": {"name": "full"}}).write(tmp_path)
    assert "method=full has no plan" in cli_verb("layers", str(tmp_path))[2]

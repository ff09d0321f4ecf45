"""`peftbench push`: the exported files of a run at the Hub of Hugging Face."""

from __future__ import annotations

from peftbench.cli.arguments import CONFIG_DIR, Argument, Command, Words
from peftbench.common.status_line import doing


def push_run(words: Words) -> int:
    """Lists what goes up, and puts it there unless `dry`. Raises UserError where it cannot be pushed."""
    from peftbench.common.amounts import size
    from peftbench.common.terminal import visible
    from peftbench.tuned.pushing import gather, push, refuse_bad_name
    from peftbench.tuned.run_folder import PLACES, read_finished

    folder, record, config = read_finished(words["run"], words["config_dir"])
    refuse_bad_name(words["repo"])
    pushed = gather(folder, record, config, [words["format"]] if words["format"] else [])
    for name, bytes_ in pushed.sizes().items():
        print(visible(f"{name:<28} {size(bytes_):>9}"))
    if pushed.left_out:
        print(visible(f"left out, as places of this machine: {', '.join(pushed.left_out)}"))
    if words["dry"]:
        print(f"dry=true: nothing was sent to {visible(words['repo'])}")
        return 0
    doing(f"pushing to {words['repo']}")
    forms = ", ".join(form for form in PLACES if form in pushed.formats)
    address = push(pushed, words["repo"], words["private"], words["force"], f"{record.id} as {forms}")
    print(visible(address))
    return 0


COMMAND = Command(
    "push",
    "exported files of a run, with card, config and record, to the Hub of Hugging Face",
    push_run,
    (
        Argument("run", "the folder of a finished run that was exported", kind="run", needed=True),
        Argument("repo", "the repository, NAME or OWNER/NAME", needed=True),
        Argument("format", "only this export; by default all in the run's folder", placeholder="FORMAT"),
        Argument("private", "a repository that is made now is for its owner alone", kind="flag", default=False),
        Argument("dry", "say what would go up, and send nothing", kind="flag", default=False),
        Argument("force", "replace a README.md that peftbench did not write", kind="flag", default=False),
        CONFIG_DIR,
    ),
    examples=("peftbench push run=outputs/RUN repo=OWNER/NAME dry=true",),
)

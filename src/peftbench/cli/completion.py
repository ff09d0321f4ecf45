"""`peftbench completion bash|zsh|fish`: completion of words in a shell.

Each script asks `peftbench completion words -- <the words so far>` for whole words, one a line. The last of the words
is the one to complete, and may be empty. Nothing else is printed, and the exit status is 0 also where the words
are wrong: a shell that completes has no place for a message. An error of peftbench itself is raised as from any verb;
the scripts keep it off the line.
"""

from __future__ import annotations

import contextlib
import os
import warnings

from peftbench.cli.arguments import Argument, Command, Words
from peftbench.common.errors import UserError

_BASH = r"""_peftbench() {
    # bash splits words at = and : too; those that no space parts in the line are put together again.
    local line=${COMP_LINE-"${COMP_WORDS[*]}"} words=() word candidate i
    line=${line#*"${COMP_WORDS[0]}"}
    for ((i = 1; i <= COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        if [[ ${#words[@]} -eq 0 || $line == [[:space:]]* ]]; then
            words+=("")
            line=${line#"${line%%[![:space:]]*}"}
        fi
        words[${#words[@]}-1]+=$word
        line=${line#"$word"}
    done
    # What stands before the last = or : stays in the line as it is.
    local current=${words[${#words[@]}-1]} kept=""
    for ((i = ${#current}; i > 0; i--)); do
        word=${current:i-1:1}
        if [[ ( $word == "=" || $word == ":" ) && $COMP_WORDBREAKS == *"$word"* ]]; then
            kept=${current:0:i}
            break
        fi
    done
    COMPREPLY=()
    while IFS= read -r candidate; do
        candidate=${candidate#"$kept"}
        [[ $candidate == *[[:space:]\'\"\\\$\(\)\&\;\|\<\>\*\?\`]* ]] && printf -v candidate %q "$candidate"
        COMPREPLY+=("$candidate")
        [[ $candidate == *[=/.] ]] && compopt -o nospace 2>/dev/null
    done < <("${COMP_WORDS[0]}" completion words -- "${words[@]}" 2>/dev/null)
    return 0
}
complete -F _peftbench peftbench
"""
_ZSH = r"""#compdef peftbench
_peftbench() {
    local -a candidates ended open
    candidates=("${(@f)$("${(Q)words[1]}" completion words -- "${(@Q)words[2,CURRENT]}" 2>/dev/null)}")
    open=("${(@M)candidates:#*[=/.]}")
    ended=("${(@)candidates:#*[=/.]}")
    ended=("${(@)ended:#}")
    (( ${#open} )) && compadd -S '' -- "${open[@]}"
    (( ${#ended} )) && compadd -- "${ended[@]}"
    return 0
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
compdef _peftbench peftbench
"""
_FISH = r"""function __peftbench_candidates
    set -l before (commandline -opc)
    set -l current (commandline -ct)
    set -l program $before[1]
    set -e before[1]
    $program completion words -- $before "$current" 2>/dev/null
end
complete -c peftbench -f -a '(__peftbench_candidates)'
"""
_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def print_completion(words: Words) -> int:
    """Prints the script of a shell; for the hidden word `words`, what the last of the words may become."""
    if words["shell"] in _SCRIPTS:
        print(_SCRIPTS[words["shell"]], end="")
        return 0
    warnings.simplefilter("ignore")
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        try:
            from peftbench.cli.candidates import candidates

            lines = candidates(words["words"])
        except UserError:  # of words that are not typed to their end
            lines = []
    print("".join(f"{line}\n" for line in lines), end="")
    return 0


COMMAND = Command(
    "completion",
    'completion of words: eval "$(peftbench completion bash)"',
    print_completion,
    (
        Argument("shell", "whose script is printed", choices=tuple(_SCRIPTS), also=("words",), place=True, needed=True),
        Argument(
            "words", "after --: the words so far, of which the last is completed", place=True, several=True, hidden=True
        ),
    ),
    expected="bash, zsh or fish",
    description="The line goes where the shell reads it at its start: ~/.bashrc, ~/.zshrc, ~/.config/fish/config.fish.",
    examples=(
        'eval "$(peftbench completion bash)"',
        'eval "$(peftbench completion zsh)"',
        "peftbench completion fish | source",
    ),
)

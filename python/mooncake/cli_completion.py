"""`mooncake completion bash`: a script for bash, made from the parser. Names of segments and keys are asked of the master while one types."""

import argparse

SCRIPT = """# bash completion for mooncake; eval "$(mooncake completion bash)", or keep it in /etc/bash_completion.d
_mooncake() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}} command= i
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${{COMP_WORDS[i]}} in
{cases}
        esac
    done
    case $previous in
        -o|--output|--config) COMPREPLY=($(compgen -f -- "$current")); return ;;
        --to|-s|--segment) COMPREPLY=($(compgen -W "$(mooncake --timeout 2 segments --names 2>/dev/null)" -- "$current")); return ;;
    esac
    if [[ $current == -* || -z $command ]]; then
        case $command in
{words}
        esac
        return
    fi
    case $command in
        drain) COMPREPLY=($(compgen -W "$(mooncake --timeout 2 segments --names 2>/dev/null)" -- "$current")) ;;
        get|rm) COMPREPLY=($(compgen -W "$(mooncake --timeout 2 keys -n 200 -- "$current" 2>/dev/null)" -- "$current")) ;;
        put) COMPREPLY=($(compgen -f -- "$current")) ;;
        completion) COMPREPLY=($(compgen -W "bash" -- "$current")) ;;
    esac
}}
complete -F _mooncake mooncake
"""


def _options(parser):
    return [text for action in parser._actions for text in action.option_strings]


def script():
    from .cli_main import make_parser

    parser = make_parser()
    commands = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction)).choices
    cases = f"            {'|'.join(commands)}) command=${{COMP_WORDS[i]}}; break ;;"
    words = [f'            "") COMPREPLY=($(compgen -W "{" ".join([*commands, *_options(parser)])}" -- "$current")) ;;']
    for name, sub in commands.items():
        words.append(f'            {name}) COMPREPLY=($(compgen -W "{" ".join(_options(sub))}" -- "$current")) ;;')
    return SCRIPT.format(cases=cases, words="\n".join(words))


def completion(arguments):
    print(script(), end="")
    return 0

"""`mooncake completion bash`: a script for bash, made from the parser. Names of segments and keys are asked of the master while one types.

Names come from others. They are compared as they are and quoted by printf %q, and are nowhere subject to an expansion (as a word list of
`compgen -W` is): a key may be called "$(rm -rf ~)".
"""

import argparse

SCRIPT = """# bash completion for mooncake; eval "$(mooncake completion bash)", or keep it in /etc/bash_completion.d

# Those lines of stdin that begin with what is typed, quoted; without the part before the last of : and =, which bash keeps as it is.
_mooncake_names() {{
    local word=$1 kept= breaker begin line
    for breaker in : =; do
        if [[ $COMP_WORDBREAKS == *"$breaker"* && $word == *"$breaker"* ]]; then
            begin=${{word%"${{word##*"$breaker"}}"}}
            if ((${{#begin}} > ${{#kept}})); then
                kept=$begin
            fi
        fi
    done
    while IFS= read -r line; do
        if [[ ${{line:0:${{#word}}}} == "$word" && -n ${{line:${{#kept}}}} ]]; then
            printf -v line %q "${{line:${{#kept}}}}"
            COMPREPLY+=("$line")
        fi
    done
}}

_mooncake_files() {{
    mapfile -t COMPREPLY < <(compgen -f -- "$1")
    compopt -o filenames 2>/dev/null
}}

_mooncake() {{
    local typed=${{COMP_LINE:0:COMP_POINT}} current=${{COMP_WORDS[COMP_CWORD]}} word previous command= i
    COMPREPLY=()
    # The whole word: for bash, : and = end one.
    word=${{typed##*[[:space:]]}}
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${{COMP_WORDS[i]}} in
{cases}
        esac
    done
    previous=${{typed%"$word"}}
    previous=${{previous%"${{previous##*[![:space:]]}}"}}
    previous=${{previous##*[[:space:]]}}
    if [[ $word == --*=* ]]; then
        previous=${{word%%=*}} word=${{word#*=}}
    fi
    case $previous in
        -o|--output) _mooncake_files "$current"; return ;;
        --to|-s|--segment) _mooncake_names "$word" < <(mooncake --timeout 2 segments --names 2>/dev/null); return ;;
    esac
    if [[ $word == -* || -z $command ]]; then
        case $command in
{words}
        esac
        return
    fi
    case $command in
        drain) _mooncake_names "$word" < <(mooncake --timeout 2 segments --names 2>/dev/null) ;;
        get|rm) _mooncake_names "$word" < <(mooncake --timeout 2 keys -n 200 -- "$word" 2>/dev/null) ;;
        put) _mooncake_files "$current" ;;
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

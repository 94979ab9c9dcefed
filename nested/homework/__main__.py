"""Grade homework, or make a copy of the course for students.

python -m nested.homework                          grade examples/homework
python -m nested.homework grade DIR ...            grade the files in one or more folders
python -m nested.homework grade DIR --only hw3     grade one slot; --check NAME: one check
python -m nested.homework grade --only hw3 --hint  also give a hint; --hint 2: two hints
python -m nested.homework grade --only hw0 --draw  also draw your unroll, and where it is cut
python -m nested.homework class DIR ...            a table of a class, and files that are alike
python -m nested.homework export DIR               a course copy, without reference answers
python -m nested.homework fingerprint FILE         the fingerprint for homework.toml
"""

from __future__ import annotations

import argparse
import os
import sys
import tokenize
from pathlib import Path

import torch

HOMEWORK = Path("examples/homework")
MEMORY = 4 * 2**30  # bytes of addresses for judging, besides what torch takes
FORMATS = ("text", "json", "markdown", "gradescope", "csv")


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the flags. Wrong flags end the program, with a usage message."""
    parser = argparse.ArgumentParser(
        prog="python -m nested.homework",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command")
    grade = commands.add_parser("grade", help="grade the files in one or more folders")
    grade.add_argument("folders", nargs="*", type=Path, metavar="DIR", help=f"default: {HOMEWORK}")
    grade.add_argument("--check", default="", metavar="NAME", help="one check alone")
    grade.add_argument("--format", choices=FORMATS, default="text", help="default: text")
    grade.add_argument(
        "--hint",
        type=int,
        nargs="?",
        const=1,
        default=0,
        metavar="N",
        help="print the first N hints (default: 1) for a check that failed",
    )
    grade.add_argument(
        "--draw",
        type=Path,
        nargs="?",
        const=Path("unroll.png"),
        metavar="FILE",
        help="draw the unroll of one slot (default: unroll.png): hw0, hw5 or hw_zero",
    )
    table = commands.add_parser("class", help="grade a class: points, and files that are alike")
    table.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="one for each student")
    for command in (grade, table):
        add_flags(command)
    export = commands.add_parser("export", help="make a course copy without reference answers")
    export.add_argument("folder", type=Path, metavar="DIR", help="new or empty")
    export.add_argument(
        "--repository",
        default="",
        metavar="OWNER/NAME",
        help="the teacher's repository: students' CI grades with its present commit",
    )
    fingerprint = commands.add_parser(
        "fingerprint", help="print the fingerprint of an untouched file"
    )
    fingerprint.add_argument("file", type=Path, metavar="FILE")
    words = list(arguments)
    if not words or words[0].startswith("-") and words[0] not in ("-h", "--help"):
        words = ["grade", *words]  # the default command
    return parser.parse_args(words)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that ``grade`` and ``class`` share."""
    parser.add_argument(
        "--only",
        nargs="+",
        default=(),
        metavar="SLOT",
        help="grade these slots, such as hw0 hw3; give them after the folders",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write the report here (default: print it)"
    )
    parser.add_argument("--seed", type=int, default=0, help="draws the problems (default: 0)")
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="grade in N processes (default: one for each core)"
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="for teachers: the worst of three seeds counts; slots not attempted fail",
    )


def run_grade(args: argparse.Namespace) -> int:
    """Grade, report, and return the exit status.

    It is 0 for a class, and where every attempted slot is right and no file is missing; else 1.
    Raises ``ValueError`` for flags that contradict each other, and on Windows."""
    if os.name != "posix":
        raise ValueError("grading needs Linux or macOS; on Windows, run it in WSL")
    from nested.homework.parallel import grade_all
    from nested.homework.registry import read_hints
    from nested.homework.report import FORMATS as reports
    from nested.homework.report import as_hints
    from nested.support.files import prepare_folder, write_whole

    is_class, folders = args.command == "class", args.folders or [HOMEWORK]
    if not is_class and args.format == "gradescope" and len(folders) > 1:
        raise ValueError("the gradescope format takes one folder")
    hint, picture = (0, None) if is_class else (args.hint, args.draw)
    if picture is not None and (len(folders) > 1 or len(args.only) != 1):
        raise ValueError("--draw takes one folder and one slot, as in --only hw0")
    if hint < 0 or hint and args.format != "text":
        raise ValueError("--hint takes a number from 1, and goes with the text format")
    if not 0 <= args.seed < 2**31:
        raise ValueError(f"--seed is a whole number from 0 to 2**31 - 1, but got {args.seed}")
    if args.out is not None:
        prepare_folder(args.out.parent, args.out.name)  # fails now, not after all the work
    options = {"only": args.only, "seed": args.seed, "strict": args.strict, "jobs": args.jobs}
    check = "" if is_class else args.check
    submissions = grade_all(folders, check=check, **options, on_slot=_say)
    text = _class_table(folders, submissions) if is_class else reports[args.format](submissions)
    if hint:
        text += "\n" + as_hints(submissions, read_hints(), hint, args.only)
    if args.out is None:
        print(text)
    else:
        write_whole(args.out, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    if picture is not None:
        _draw(folders[0], args.only[0], picture)
    slots = [slot for submission in submissions for slot in submission.slots]
    counted = [slot for slot in slots if slot.status != "not attempted" or args.strict]
    return 0 if is_class or all(slot.is_full for slot in counted) else 1


def _say(folder: Path, slot: str) -> None:
    print(f"grading {folder}: {slot}", file=sys.stderr, flush=True)


def _draw(folder: Path, slot: str, picture: Path) -> None:
    from nested.homework.draw import draw_submission
    from nested.homework.registry import read_worth

    print(f"{picture}: {draw_submission(folder, slot, read_worth()[slot], picture)}")


def _class_table(folders: list[Path], submissions: list) -> str:
    from nested.homework.classes import as_class
    from nested.homework.copies import find_alike
    from nested.homework.registry import read_worth

    slots = [slot.slot for slot in submissions[0].slots]
    return as_class(submissions, find_alike(folders, slots, read_worth()))


def main(arguments: list[str] | None = None) -> int:
    """Run a command. Returns the exit status: 0, 1 after a failure, 130 after Ctrl-C."""
    args = parse(sys.argv[1:] if arguments is None else arguments)
    try:
        if args.command in ("grade", "class"):
            return run_grade(args)
        if args.command == "export":
            from nested.homework.export import export

            names, left_out = export(args.folder, args.repository)
            print(f"{len(names)} files of the last commit are in {args.folder}")
            if left_out:
                print(f"not in it, because not committed: {', '.join(left_out)}", file=sys.stderr)
            return 0
        from nested.homework.registry import fingerprint

        print(fingerprint(args.file))
        return 0
    except (ValueError, OSError, SyntaxError, tokenize.TokenError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped; nothing was written.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    torch.set_num_threads(1)  # the problems are small, and an idle second thread would spin
    if os.name == "posix":
        from nested.homework.limits import limit_memory

        limit_memory(MEMORY)  # for whatever a student's code sends
    sys.exit(main())

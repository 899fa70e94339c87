"""`unhosted verify`: evidence run again on this machine."""

import dataclasses
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import click

from unhosted.node.cli.common import json_option, load_config, offline_option
from unhosted.node.cli.output import human_size, is_terminal, note, write_facts, write_json, write_table
from unhosted.node.cli.verify_plot import margin_plot
from unhosted.node.core.errors import Refused

if TYPE_CHECKING:
    from unhosted.node.app_verify import Opened, Rerun

EXPECTATIONS = {"convict": "convicts", "clear": "clear"}
WORST_SHOWN = 5
PIPE_COLUMNS = 80
COLUMNS_READABLE = 100
"""Of prose: longer lines are hard to read."""

PLOT_CLIPS = 4
"""The picture goes up to as many times where the statistic cuts: it shows which are far above."""


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--model", metavar="PATH|REF", help="The model, where it is not in the store under its hash.")
@click.option("--explain", is_flag=True, help="Say in plain words what it shows, and what it does not.")
@click.option("--appeal", is_flag=True, help="Also run it as the seller says that it computed.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw the margins into this PNG.")
@click.option(
    "--expect",
    type=click.Choice(sorted(EXPECTATIONS)),
    help="Fail with exit code 1 unless this is the verdict.",
)
@click.option("--ask", "peer", metavar="PEER", help="Have a paired machine read it, and not this one.")
@click.option("--yes", "is_agreed", is_flag=True, help="With --ask: do not ask before prompts are sent.")
@click.option("--port", type=click.IntRange(0, 65535), help="With --ask: port of the node.")
@offline_option
@json_option
def verify(
    file: Path,
    model: str | None,
    explain: bool,
    appeal: bool,
    plot: Path | None,
    expect: str | None,
    peer: str | None,
    is_agreed: bool,
    port: int | None,
    offline: bool | None,
    as_json: bool,
) -> int:
    """Run the evidence in FILE again, and say whether it convicts the seller.

    Nothing in it is believed but signatures: the tokens are read again on this machine, and judged by its own
    calibration. It makes no connection, and needs the very model that the evidence is of. With --ask a paired
    machine does it instead and signs what it found, once you have agreed to what it would see.

    Exit code 0: it ran, and the verdict is printed (either one); 1: the file contradicts itself, it cannot be
    run here, or --expect says otherwise.
    """
    import trio

    from unhosted.node import app_verify

    config = load_config(offline=offline, port=port)
    opened = app_verify.open_evidence(file)
    if opened.faults:
        if as_json:
            write_json({"file": str(file), "verdict": "none", "faults": opened.faults})
            return 1
        for fault in opened.faults:
            note(fault)
        raise Refused("invalid_request", f"{file} contradicts itself, so it proves nothing about anybody")
    if peer is not None:
        from unhosted.node.cli.verify_ask import ask

        return ask(config, opened, peer, is_agreed=is_agreed, as_json=as_json)
    total = len(opened.evidence.answers)
    if not as_json:
        note(f"reading {opened.evidence.tokens:,} tokens again; nothing leaves this machine")

    async def run() -> "Rerun":
        return await app_verify.rerun(
            config,
            opened,
            model=model,
            with_appeal=appeal,
            worst_count=WORST_SHOWN,
            picture=plot,
            progress=lambda done, _: None if as_json or done == total else note(f"{done} of {total} answers"),
        )

    result = trio.run(run)
    if as_json:
        write_json(_as_json(opened, result))
    else:
        _show(opened, result)
        if explain:
            from unhosted.node.cli.verify_words import explanation

            for paragraph in explanation(opened, result):
                click.echo()
                click.echo(click.wrap_text(paragraph, width=min(_columns(), COLUMNS_READABLE)))
        if plot is not None:
            note(f"the picture is in {plot}")
    return 1 if expect is not None and result.judgement.verdict != EXPECTATIONS[expect] else 0


def _show(opened: "Opened", result: "Rerun") -> None:
    from unhosted.node.cli.verify_words import appeal_line, judged_by, noted, verdict_line

    evidence, judgement = opened.evidence, result.judgement
    whole = sum(answer.is_whole for answer in evidence.answers)
    write_facts(
        [
            ("file", f"{opened.path} ({human_size(opened.size_bytes)})"),
            ("accused", f"{opened.accused}, as {opened.seller}"),
            ("model", f"{result.model} (b3:{opened.model})"),
            (
                "opened",
                f"{len(evidence.answers)} answers, {whole} of them whole, of {_requests(opened)} requests;"
                f" {evidence.output_tokens:,} tokens{_repeats(judgement.repeats)}",
            ),
            ("engine", f"{result.library} on {result.device}"),
            ("judged by", judged_by(result)),
            ("differ", f"{judgement.mismatches:,} of {judgement.tokens:,} tokens"),
            ("log10 E", _e_line(result)),
            *(("noted", sentence) for sentence in noted(result)),
            *([("appeal", appeal_line(result.appeal))] if result.appeal is not None else []),
        ]
    )
    margins = [margin for one in result.read for margin in one.seen.margin_mlogit]
    clip = max(one.table.clip_mlogit for one in result.read)
    top = min(max(clip, *margins), PLOT_CLIPS * clip) if margins else clip
    click.echo()
    click.echo(f"logits that each token is below the one that this machine draws, cut at {top / 1_000:.2f}")
    for line in margin_plot(margins, top_mlogit=top, width=_columns()):
        click.echo(line)
    if result.worst:
        click.echo()
        _show_worst(result)
    click.echo()
    click.echo(verdict_line(opened, result))


def _columns() -> int:
    return shutil.get_terminal_size((PIPE_COLUMNS, 24)).columns if is_terminal() else PIPE_COLUMNS


def _show_worst(result: "Rerun") -> None:
    from unhosted.node.cli.verify_words import margin_text

    write_table(
        [
            ("ANSWER", "right"),
            ("TOKEN", "right"),
            ("SERVED", "left"),
            ("DRAWN HERE", "left"),
            ("MARGIN", "right"),
            ("RANK", "right"),
        ],
        [
            (
                str(one.answer + 1),
                str(one.position + 1),
                _token(one.served_id, one.served),
                _token(one.drawn_id, one.drawn),
                margin_text(one.margin_mlogit),
                str(one.rank),
            )
            for one in result.worst
        ],
    )


def _token(token_id: int, text: str) -> str:
    return f"{text!r} ({token_id})" if text else f"control ({token_id})"


def _requests(opened: "Opened") -> int:
    return 0 if opened.chain is None else opened.chain.requests


def _repeats(count: int) -> str:
    return f"; {count} repeat a prompt and do not count" if count else ""


def _e_line(result: "Rerun") -> str:
    judgement = result.judgement
    return (
        f"{judgement.log10_e_milli / 1_000:.1f}, less {judgement.cost_milli / 1_000:.1f} for the choice of"
        f" answers = {judgement.left_milli / 1_000:.1f}; 6.0 convicts"
    )


def _as_json(opened: "Opened", result: "Rerun") -> dict[str, object]:
    judgement, evidence = result.judgement, opened.evidence
    return {
        "file": str(opened.path),
        "hash": opened.hash,
        "verdict": judgement.verdict,
        "accused": opened.accused,
        "seller": opened.seller,
        "buyer": opened.buyer,
        "model": f"b3:{opened.model}",
        "engine": {"library": result.library, "device": result.device},
        "tokens": judgement.tokens,
        "mismatches": judgement.mismatches,
        "log10_e": judgement.log10_e_milli / 1_000,
        "choice_cost_log10": judgement.cost_milli / 1_000,
        "left_log10": judgement.left_milli / 1_000,
        "proofs": judgement.proofs,
        "repeats": judgement.repeats,
        "is_gross": judgement.is_gross,
        "is_calibration_known": result.is_calibration_known,
        "chain": None if opened.chain is None else dataclasses.asdict(opened.chain),
        "answers": [
            {
                "request": answer.asked.channel_sequence,
                "tokens": len(answer.output.ids),
                "tokens_signed": answer.output.count,
                "finish": answer.finish,
                "check": read.check,
                "rule": read.table.rule,
                "why_checked": answer.how,
                "chance_ppm": answer.chance_ppm,
                "mismatches": read.seen.mismatches,
                "margin_mlogit": read.seen.margin_mlogit,
                "gap_mlogit": read.seen.gap_mlogit,
                "faults": [fault.sentence for fault in read.faults],
            }
            for answer, read in zip(evidence.answers, result.read, strict=True)
        ],
        "worst": [dataclasses.asdict(one) for one in result.worst],
        "appeal": None
        if result.appeal is None
        else {
            "result": result.appeal.result,
            "mismatches": result.appeal.mismatches,
            "tokens": result.appeal.tokens,
            "log10_e": result.appeal.log10_e_milli / 1_000,
        },
    }

"""Operations and memory of the real models, beside the figures in the paper and the design."""

from dataclasses import asdict, replace

from benchmarks.report import write_json
from llava_mini.cost import Flops, llava_flops, our_flops, plain_flops
from llava_mini.plan import GIB, TEXT_TOKENS, Load, find_subject, format_plan, plan
from llava_mini.quantize import WEIGHTS
from llava_mini.shapes import SHAPES, llava_mini_7b
from llava_mini.text_table import table

TERA = 1e12
GPU_GIB = 24
# TFLOP, 7B at 336 px. Totals: paper, Table 7. Parts: docs/design.md, costs.
PAPER_TOTALS = {"LLaVA-1.5": 8.55, "LLaVA-Mini": 1.96}
DESIGN_PARTS = {"tower": 0.38, "projection": 0.024, "prefusion": 1.03, "language": 0.57}
DESIGN_TOTALS = {"LLaVA-1.5": 8.63, "LLaVA-Mini": 2.01}


def main() -> None:
    """Prints the tables and writes results/plan.json."""
    config = llava_mini_7b()
    llava, mini, here = (count(config, TEXT_TOKENS) for count in (llava_flops, plain_flops, our_flops))
    parts = [
        [part, f"{figure:.3f}", *(f"{getattr(flops, part) / TERA:.3f}" for flops in (mini, here))]
        for part, figure in DESIGN_PARTS.items()
    ]
    print(f"TFLOP of one picture and {TEXT_TOKENS} text tokens, 7B, 336 px\n")
    print(table(["part of LLaVA-Mini", "design", "counted, public code", "counted, here"], parts) + "\n")
    totals = [_total("LLaVA-1.5", llava, None), _total("LLaVA-Mini", mini, here)]
    print(table(["total", "paper", "design", "counted", "against paper", "here"], totals) + "\n")
    plans: dict[str, object] = {}
    for name in SHAPES:
        shape, settings = find_subject(name)
        load = Load.from_settings(settings)
        print(f"== {name}\n{format_plan(GPU_GIB, shape, load)}\n")
        counted_memory = [plan(GPU_GIB * GIB, shape, replace(load, weights=weights)) for weights in WEIGHTS]
        plans[name] = [{**asdict(p), "load": {**asdict(p.load), "dtype": str(p.load.dtype)}} for p in counted_memory]
    counted = {"LLaVA-1.5": llava, "LLaVA-Mini, public code": mini, "LLaVA-Mini, here": here}
    flops = {name: {**asdict(value), "total": value.total} for name, value in counted.items()}
    paper = {"paper_tflop": PAPER_TOTALS, "design_tflop": {"parts": DESIGN_PARTS, "totals": DESIGN_TOTALS}}
    write_json("plan", {**paper, "flops_7b": flops, "gpu_gib": GPU_GIB, "memory": plans})


def _total(name: str, counted: Flops, here: Flops | None) -> list[str]:
    paper = PAPER_TOTALS[name]
    off = counted.total / TERA / paper - 1
    saved = f"{here.total / TERA:.2f}" if here else "-"
    return [name, f"{paper:.2f}", f"{DESIGN_TOTALS[name]:.2f}", f"{counted.total / TERA:.2f}", f"{off:+.1%}", saved]


if __name__ == "__main__":
    main()

"""
What pricing costs, in CPU microseconds: `python -m measure.price_cost`.

Medians over rounds of this thread's CPU time. Compare rows and ratios; absolute numbers belong to the machine.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from llmproxy.limits.cost import cost
from llmproxy.limits.prices import Prices, read_sheet
from llmproxy.limits.usage import Extras, Usage, usage_of
from measure.price_sheet import FOLDER

ROUNDS = 25

_TOLD = {
    "prompt_tokens": 1117,
    "completion_tokens": 46,
    "total_tokens": 1163,
    "prompt_tokens_details": {"cached_tokens": 1024, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
}


def cpu_us(action: Callable[[], object], times: int) -> float:
    """Microseconds of CPU that one of so many takes, in the median of the rounds."""
    rounds = []
    for _ in range(ROUNDS):
        start = time.thread_time()
        for _ in range(times):
            action()
        rounds.append((time.thread_time() - start) / times * 1e6)
    return statistics.median(rounds)


def main() -> None:
    """Prints a line for each part of it."""
    text = (FOLDER / "openai.json").read_text()
    sheet = read_sheet(text)
    prices = Prices(sheet)
    chat, usage = prices.find("gpt-4o-2024-08-06"), Usage(1117, 1024, 46)
    voice = prices.find("gpt-realtime")
    spoken = Usage(2_000, 1_000, 1_000, extras=Extras(audio_in=1_500, audio_cached=900, audio_out=800))
    if chat is None or voice is None:
        raise SystemExit("the sheet lacks the models that are priced here")

    empty = cpu_us(lambda: None, 100_000)
    for name, action, times in (
        ("the sheet, read and checked", lambda: read_sheet(text), 5),
        ("the first look-up of a model", lambda: Prices(sheet).find("gpt-4o-2024-08-06"), 200),
        ("a look-up after it", lambda: prices.find("gpt-4o-2024-08-06"), 50_000),
        ("the cost of a chat", lambda: cost(chat, usage, "default"), 50_000),
        ("the cost of a realtime response", lambda: cost(voice, spoken), 5_000),
        ("usage out of a record's metadata", lambda: usage_of(_TOLD), 10_000),
    ):
        print(f"{cpu_us(action, times) - empty:9.2f}  {name}")


if __name__ == "__main__":
    main()

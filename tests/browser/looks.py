"""What is wrong with how an open page looks, that a script can see."""

from playwright.sync_api import Page

# Words and numbers of usual length that begin on one line and end on another.
_BROKEN_WORDS = """() => {
  const texts = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
  const range = document.createRange();
  const isBroken = ([word], node, index) => {
    range.setStart(node, index);
    range.setEnd(node, index + word.length);
    return new Set([...range.getClientRects()].map((it) => Math.round(it.top))).size > 1;
  };
  const broken = [];
  for (let node; (node = texts.nextNode()); ) {
    if (!node.parentElement.checkVisibility() || node.parentElement.closest(".sr, option, pre")) continue;
    const words = [...node.data.matchAll(/(?<!\\S)(\\p{L}{2,14}|[$\\d][\\d.,]{1,11})(?!\\S)/gu)];
    broken.push(...words.filter((it) => isBroken(it, node, it.index)).map(([word]) => word));
  }
  return broken;
}"""
# Selects that have no room for what is chosen.
_CUT_CHOICES = """() => {
  const ink = document.createElement("canvas").getContext("2d");
  const room = (it, style) => it.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
  return [...document.querySelectorAll("main select")].filter((it) => it.checkVisibility()).flatMap((it) => {
    const style = getComputedStyle(it), words = it.selectedOptions[0]?.text ?? "";
    ink.font = style.font;
    return ink.measureText(words).width > room(it, style) + 1 ? [words] : [];
  });
}"""


def broken_texts(page: Page) -> list[str]:
    """Words and numbers that a line's end breaks, and choices that are cut."""
    broken = [f"“{word}” is broken" for word in page.evaluate(_BROKEN_WORDS)]
    return broken + [f"“{words}” is cut" for words in page.evaluate(_CUT_CHOICES)]

// What scrolls sideways can be scrolled with the keyboard: code and tables that are wider than their place.
function markScrolling() {
  for (const box of document.querySelectorAll(".md-typeset__scrollwrap, .md-typeset pre > code")) {
    if (box.scrollWidth > box.clientWidth) box.setAttribute("tabindex", "0");
    else box.removeAttribute("tabindex");
  }
}
addEventListener("load", () => setTimeout(markScrolling, 0));
addEventListener("resize", markScrolling);

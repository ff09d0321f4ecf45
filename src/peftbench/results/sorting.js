// The tables are in the page already; a click on the head of a column sorts by it.

function number(cell) {
  const given = cell.dataset.value;
  if (given !== undefined) return given === "" ? NaN : Number(given);
  const written = cell.textContent.replace(/,/g, "").match(/^[+<]?-?[\d.]+/);
  return written ? Number(written[0].replace("<", "")) : NaN;
}
function sort(table, index, descending) {
  const body = table.tBodies[0], heads = table.tHead.rows[0].cells;
  const numeric = heads[index].classList.contains("number");
  const rows = [...body.rows];
  rows.sort((a, b) => {
    if (!numeric) return a.cells[index].textContent.localeCompare(b.cells[index].textContent) * (descending ? -1 : 1);
    const x = number(a.cells[index]), y = number(b.cells[index]);
    if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
    return descending ? y - x : x - y;
  });
  body.append(...rows);
  for (const head of heads) head.removeAttribute("aria-sort");
  heads[index].setAttribute("aria-sort", descending ? "descending" : "ascending");
}
for (const table of document.querySelectorAll("table")) {
  [...table.tHead.rows[0].cells].forEach((head, index) => {
    head.tabIndex = 0;
    const act = () => sort(table, index, head.getAttribute("aria-sort") !== "descending" && head.classList.contains("number")
      || head.getAttribute("aria-sort") === "ascending");
    head.addEventListener("click", act);
    head.addEventListener("keydown", (event) => { if (event.key === "Enter") act(); });
  });
}

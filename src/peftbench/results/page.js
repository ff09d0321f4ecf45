// The tables are in the page already; this makes them sortable and filterable and draws the charts (charts.js).
const boards = JSON.parse(document.getElementById("data").textContent);
const state = new URLSearchParams(location.hash.slice(1));
document.documentElement.classList.add("js");

// -- tables

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

// -- what is shown

function filter(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  let rows = 0, all = 0;
  document.querySelectorAll("section.board").forEach((section, at) => {
    const board = boards[at];
    const names = board.tasks.filter((t) => words.some((w) => t.toLowerCase().includes(w)));
    const rest = words.filter((w) => !board.tasks.some((t) => t.toLowerCase().includes(w)));
    board.query = { tasks: names };
    for (const row of board.rows) {
      row.hidden = rest.length > 0 && !rest.some((w) => row.label.toLowerCase().includes(w));
      all += 1;
      rows += !row.hidden;
    }
    const shown = new Set(board.rows.filter((r) => !r.hidden).map((r) => r.label));
    const known = new Set(board.rows.map((r) => r.label));
    for (const line of section.querySelectorAll("tbody tr")) {
      const labels = [...line.cells].slice(0, 2).map((c) => c.textContent).filter((l) => known.has(l));
      line.hidden = labels.some((l) => !shown.has(l));
    }
    draw(section, board);
  });
  document.getElementById("count").textContent = `${rows} of ${all} rows`;
}
const search = document.getElementById("search");
search.value = state.get("q") ?? "";
search.addEventListener("input", () => {
  history.replaceState(null, "", search.value ? `#q=${encodeURIComponent(search.value)}` : location.pathname);
  filter(search.value);
});
document.getElementById("controls").hidden = false;
filter(search.value);
if (state.get("sort")) {
  for (const table of document.querySelectorAll("table.means")) {
    const index = [...table.tHead.rows[0].cells].findIndex((h) => h.textContent === state.get("sort"));
    if (index >= 0) sort(table, index, state.get("order") !== "ascending");
  }
}

// The tables are in the page already; this makes them filterable, and lays the charts out.

const state = new URLSearchParams(location.hash.slice(1));
document.documentElement.classList.add("js");

// By what tables call it, each line of a group.
const sections = [...document.querySelectorAll("section.board")].map((section, at) => ({
  rows: [...section.querySelectorAll("tbody tr")],
  lines: new Map(report.groups[at].lines.flatMap((line) => line.names.map((name) => [name, line]))),
  tried: new Set(report.groups[at].tried), // settings, most of which no line shows
}));
const NAMES = 3; // a name of a method stands in one of the first cells of a row
for (const { rows, lines } of sections)
  for (const row of rows)
    for (const cell of [...row.cells].slice(0, NAMES)) {
      const line = lines.get(cell.textContent);
      if (line) cell.prepend(swatch(line));
    }

// In a table with a column for each backbone a mark has the method's colour alone.
const byBackbone = [...document.querySelectorAll("section.backbones tbody tr")];
for (const row of byBackbone) {
  const name = row.cells[0].textContent, fitting = report.methods.filter((m) => name === m || name.startsWith(`${m} `));
  const method = report.methods.indexOf(fitting.sort((a, b) => b.length - a.length)[0]);
  if (method >= 0) row.cells[0].prepend(swatch({ method }));
}

// -- what is shown

function filter(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean), among = (name, some) => some.some((w) => name.toLowerCase().includes(w));
  const ofTasks = words.filter((w) => report.tasks.some((t) => t.toLowerCase().includes(w)));
  const names = report.groups.flatMap((group) => [...group.lines.flatMap((line) => line.names), ...group.tried]);
  const ofBackbones = words.filter((w) => !ofTasks.includes(w) && !among(names.join(" "), [w]) && report.groups.some((g) => among(g.backbone, [w])));
  const ofRows = words.filter((w) => !ofTasks.includes(w) && !ofBackbones.includes(w));
  const shows = (name, some) => some.length === 0 || among(name, some); // of words of one kind any, of each kind one
  let shown = 0, all = 0;
  report.groups.forEach((group, at) => {
    for (const line of group.lines) {
      line.hidden = !shows(group.backbone, ofBackbones) || !shows(line.names.join(" "), ofRows);
      all += 1;
      shown += !line.hidden;
    }
    const { rows, lines, tried } = sections[at];
    const hides = (name) => lines.get(name)?.hidden ?? (tried.has(name) && (!shows(group.backbone, ofBackbones) || !shows(name, ofRows)));
    for (const row of rows) row.hidden = [...row.cells].slice(0, NAMES).some((cell) => hides(cell.textContent));
  });
  for (const row of byBackbone) row.hidden = !shows(row.cells[0].textContent, ofRows);
  for (const panel of report.panels)
    for (const row of panel.rows) row.hidden = report.groups[row.group].lines[row.line].hidden;
  for (const panel of report.panels)
    panel.hidden = ofTasks.length > 0 && !(panel.tasks.length === 1 && among(panel.tasks[0], ofTasks));
  document.getElementById("count").textContent = `${shown} of ${all} rows`;
  draw();
}

// -- charts

const place = document.getElementById("charts");
const GAP = 24, LEAST = 340, MOST = 620, ALL_AT_ONCE = 3; // pixels; panels that are drawn whole
let chosen = 0, drawnAt = 0;

function choice(options, act, label) {
  const box = html("label", `${label} `), list = html("select");
  for (const [value, text] of options) { const o = html("option", text); o.value = value; list.append(o); }
  list.addEventListener("change", () => act(Number(list.value)));
  box.append(list);
  return { box, list };
}
// A row of charts, as many beside each other as are readable.
function grid(number, make) {
  const space = place.clientWidth, most = Math.max(1, Math.floor((space + GAP) / (LEAST + GAP)));
  const columns = Math.ceil(number / Math.ceil(number / most)); // rows of equal length
  const wide = Math.floor(Math.min((space - GAP * (columns - 1)) / columns, Math.max(MOST, LEAST)));
  const box = html("div", undefined, "charts"), figures = make(Math.max(wide, 200));
  box.style.gridTemplateColumns = `repeat(${columns}, minmax(0, ${wide}px))`;
  for (const figure of figures) // a tall chart stands beside several others
    if (columns > 1 && figure.dataset.high > 400) figure.style.gridRow = `span ${Math.min(3, Math.ceil(figure.dataset.high / 340))}`;
  box.append(...figures);
  return box;
}
function whole(panel) {
  const box = html("div", undefined, "panel"), rows = panel.rows.filter((row) => !row.hidden);
  box.append(html("h3", panel.title));
  const images = panel.images && ` on ${panel.images}`;
  const without = panel.without.length ? ` Without a mean, since they lack a data set: ${panel.without.join(", ")}.` : "";
  const on = panel.backbones.length > 1 ? `${panel.backbones.length} backbones` : panel.backbones[0];
  box.append(html("p", `${capital(panel.metric)}${images}; ${on}, trained on ${panel.trained_on}.${without}`, "note"), legend(rows));
  const make = (wide) => [dots(panel, wide, `${capital(panel.metric)}, ${panel.unit} with 95 % intervals over seeds`),
    ...COSTS.map((cost) => scatter(panel, cost, wide)), ...recorded.map((which) => curves(panel, which, wide))];
  const recorded = ["val", "loss"].filter((which) => rows.some((row) => row.curve.epochs && row.curve[which].some((v) => v !== null)));
  box.append(grid(1 + COSTS.length + recorded.length, make));
  const planned = rows.filter((row) => row.layers.length);
  if (planned.length) {
    const holder = html("div"), show = (at) => holder.replaceChildren(grid(1, (wide) => [layers(planned[at], wide)]));
    const pick = choice(planned.map((row, at) => [at, row.label]), show, "layers of"), controls = html("div", undefined, "controls");
    controls.append(pick.box);
    if (planned.length > 1) box.append(controls);
    box.append(holder);
    show(0);
  }
  return box;
}
function draw() {
  const panels = report.panels.filter((panel) => !panel.hidden);
  drawnAt = place.clientWidth;
  place.replaceChildren(html("h2", "What each method reaches, and what it costs"));
  const many = panels.length > ALL_AT_ONCE;
  if (many) {
    chosen = Math.min(chosen, panels.length - 1);
    const pick = choice(panels.map((panel, at) => [at, panel.title]), (at) => { chosen = at; draw(); }, "data set");
    pick.list.value = chosen;
    const controls = html("div", undefined, "controls");
    controls.append(pick.box);
    place.append(controls);
  }
  place.append(...(many ? [panels[chosen]] : panels).map(whole));
  place.append(html("p", "Dashed gray lines are Pareto fronts: nothing that may be compared is both better and cheaper. Parameters are compared over all "
    + "rows of a data set and split; memory on one machine; times on one machine and of one kind. Vertical and horizontal bars are 95 % "
    + "intervals. Left out are costs of several machines, and times and memory of runs trained together.", "note"));
  if (many) {
    place.append(html("h3", "Every data set"));
    place.append(grid(panels.length, (wide) => panels.map((panel) => dots(panel, wide, [panel.title, panel.images].filter(Boolean).join(", ")))));
  }
}
place.addEventListener("pointerover", (event) => {
  const method = event.target.closest("[data-method]")?.dataset.method;
  place.classList.toggle("lit", method !== undefined);
  if (method !== undefined) for (const node of place.querySelectorAll("[data-method]")) node.classList.toggle("on", node.dataset.method === method);
});
place.addEventListener("pointerleave", () => place.classList.remove("lit"));
new ResizeObserver(() => { if (place.clientWidth && place.clientWidth !== drawnAt) draw(); }).observe(place);

const search = document.getElementById("search");
search.value = state.get("q") ?? "";
search.addEventListener("input", () => {
  history.replaceState(null, "", search.value ? `#q=${encodeURIComponent(search.value)}` : location.pathname);
  filter(search.value);
});
document.getElementById("controls").hidden = place.hidden = false;
filter(search.value);
if (state.get("sort")) {
  for (const table of document.querySelectorAll("table.means")) {
    const index = [...table.tHead.rows[0].cells].findIndex((h) => h.textContent === state.get("sort"));
    if (index >= 0) sort(table, index, state.get("order") !== "ascending");
  }
}

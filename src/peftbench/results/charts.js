// The charts of one panel: a data set with the rows of all boards that may be compared there.

const COSTS = [
  { key: "train", name: "training time", form: duration },
  { key: "memory", name: "peak memory", form: bytes },
  { key: "parameters", name: "trainable parameters", axis: "trainable parameters, without the head", form: short, everywhere: true },
];
const MOST_ROWS = 60, MOST_NAMED = 40;

// An interval of a share ends where shares do; a loss is none.
const low = (row) => 100 * Math.max(row.value - (row.half ?? 0), row.value >= 0 ? 0 : -Infinity);
const high = (row) => 100 * Math.min(row.value + (row.half ?? 0), row.value <= 1 ? 1 : Infinity);
const figures = (row) => `${percent(row.value)}${row.half === null ? "" : ` ± ${percent(row.half)}`}`;
function told(row, panel, more = "") {
  const images = panel.images && ` of ${panel.images}`;
  const seeds = row.seeds === "1" ? "1 seed" : `${row.seeds} seeds`;
  return [`${row.in_full}: ${figures(row)} ${panel.unit}${images}`, seeds, more, row.times, row.choice].filter(Boolean).join(", ");
}
function placed(row, panel, x, y, r, more) {
  const point = mark({ ...row, hollow: row.times !== "" }, r);
  point.setAttribute("transform", `translate(${x.toFixed(2)} ${y.toFixed(2)})`);
  Object.assign(point.dataset, { label: row.label, method: row.method, value: row.value });
  point.append(svg("title", {}, told(row, panel, more)));
  return point;
}
const capital = (text) => text[0].toUpperCase() + text.slice(1);

// Every row's figure and its interval, the best first.
function dots(panel, wide, title) {
  const all = panel.rows.filter((r) => !r.hidden && r.value !== null), rows = all.slice(0, MOST_ROWS);
  const figure = figureOf(title, wide);
  if (!rows.length) { figure.append(html("p", "no row has a figure here", "note")); return figure; }
  const room = 0.38 * wide, names = rows.map((r) => fitted(r.label, room));
  const left = Math.max(...names.map(width)) + 12, right = wide - Math.max(...rows.map((r) => width(figures(r)))) - 10;
  const top = 6, bottom = top + 20 * rows.length, tall = bottom + 36;
  const [x0, x1] = ends(rows.flatMap((r) => [low(r), high(r)]), { share: true });
  const x = (v) => left + ((v - x0) / (x1 - x0)) * (right - left);
  const root = svg("svg", { viewBox: `0 0 ${wide} ${tall}`, width: wide, height: tall, role: "img", "aria-label": title });
  Object.assign(root.dataset, { chart: "dots", left, right, top, bottom });
  for (const [v, text] of linear(x0, x1, Math.max(2, Math.floor((right - left) / 45)), false)) {
    root.append(svg("path", { class: "grid", d: `M${x(v)} ${top}V${bottom}` }));
    root.append(svg("text", { x: x(v), y: bottom + 15, "text-anchor": "middle", class: "soft", "data-tick": "x" }, text));
  }
  root.append(svg("path", { class: "axis", d: `M${left} ${bottom}H${right}` }));
  root.append(svg("text", { x: (left + right) / 2, y: tall - 5, "text-anchor": "middle", class: "soft" }, `${panel.metric}, ${panel.unit}`));
  rows.forEach((row, at) => {
    const y = top + 20 * at + 10;
    root.append(svg("text", { x: left - 8, y: y + 4, "text-anchor": "end" }, names[at]));
    if (row.half !== null) root.append(whisker(row, `M${x(low(row))} ${y}H${x(high(row))}`));
    root.append(placed(row, panel, x(100 * row.value), y, 4.5));
    root.append(svg("text", { x: right + 8, y: y + 4 }, figures(row)));
  });
  figure.append(root);
  figure.dataset.high = tall;
  if (rows.length < all.length) figure.append(html("p", `${all.length - rows.length} more are in the tables below`, "note"));
  return figure;
}
function whisker(row, d, crowded = false) {
  return svg("path", { class: "whisker", stroke: hue(row.method), d, "data-method": row.method, "data-whisker": row.label, opacity: crowded ? 0.4 : 0.75 });
}

// What is reached against one cost, with the Pareto fronts that the report computed.
function scatter(panel, cost, wide) {
  const title = `${capital(panel.metric)} against ${cost.name}`, figure = figureOf(title, wide);
  const shown = panel.rows.map((row, i) => ({ row, i, cost: row.costs[cost.key] }))
    .filter((p) => !p.row.hidden && p.row.value !== null && p.cost !== null && (cost.everywhere || p.row.comparable));
  if (!shown.length) { figure.append(html("p", `no row has a ${cost.name} that may be compared`, "note")); return figure; }
  const positive = shown.map((p) => p.cost).filter((v) => v > 0), zero = positive.length < shown.length;
  const options = { log: true, xform: cost.form, xname: cost.axis ?? cost.name, zero, title };
  const vertical = ends(shown.flatMap((p) => [low(p.row), high(p.row)]), { share: true });
  const { root, x: scaled, y, box, nothing } = frame(wide, 300, positive.length ? positive : [1], vertical, options);
  Object.assign(root.dataset, { chart: "cost", cost: cost.key });
  const x = (v) => (v > 0 ? scaled(v) : nothing); // a logarithm has no place for zero: it stands before the axis
  const places = new Map(shown.map((p) => [p.i, { ...p, x: x(p.cost), y: y(100 * p.row.value) }])), front = new Set();
  for (const indices of panel.fronts[cost.key]) {
    const line = indices.map((i) => places.get(i)).filter(Boolean); // the filter hides rows, and makes no other front
    line.forEach((p) => front.add(p.i));
    if (line.length > 1) root.append(svg("path", { class: "front", d: `M${line.map((p) => `${p.x} ${p.y}`).join("L")}` }));
  }
  for (const { row, x: at } of places.values()) if (row.half !== null) root.append(whisker(row, `M${at} ${y(low(row))}V${y(high(row))}`, shown.length > 15));
  const inOrder = [...places.values()].sort((a, b) => front.has(a.i) - front.has(b.i));
  for (const p of inOrder) {
    const point = placed(p.row, panel, p.x, p.y, front.has(p.i) ? 5.5 : 4, cost.form(p.cost));
    point.dataset.front = front.has(p.i);
    root.append(point);
  }
  if (shown.length <= MOST_NAMED) names(root, inOrder.reverse(), { ...box, left: 44 });
  figure.append(root);
  return figure;
}

// Names beside the points where there is room: those of the front first, and none over another or over a point.
function names(root, points, box) {
  const taken = points.map((p) => [p.x - 5, p.y - 5, p.x + 5, p.y + 5]);
  const free = (a) => a[0] >= box.left && a[2] <= box.right + 12 && a[1] >= box.top - 6 && a[3] <= box.bottom
    && !taken.some((b) => a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3]);
  for (const { row, x, y } of points) {
    const text = fitted(row.label, 130), w = width(text);
    const tries = [[8, -6], [-8 - w, -6], [8, 12], [-8 - w, 12], [8, 3], [-8 - w, 3], [-w / 2, -10], [-w / 2, 18], [8, -16], [-8 - w, -16], [8, 24], [-8 - w, 24]];
    const at = tries.map(([dx, dy]) => [x + dx, y + dy]).find(([a, b]) => free([a - 1, b - 9, a + w + 1, b + 2]));
    if (!at) continue; // its mark tells it when it is pointed at, and the first chart names every row
    taken.push([at[0] - 1, at[1] - 9, at[0] + w + 1, at[1] + 2]);
    root.append(svg("text", { x: at[0], y: at[1], "data-method": row.method, "data-name": row.label }, text));
  }
}

function curves(panel, which, wide) {
  const title = which === "val" ? `${capital(panel.primary)} on validation images, %` : "Training loss";
  const scale = which === "val" ? 100 : 1, figure = figureOf(title, wide);
  const lines = panel.rows.filter((r) => !r.hidden && r.curve.epochs)
    .map((row) => ({ row, points: row.curve.epochs.map((e, k) => [e, row.curve[which][k]]).filter((p) => p[1] !== null) }))
    .filter((line) => line.points.length);
  const all = lines.flatMap((line) => line.points), vertical = ends(all.map((p) => scale * p[1]), { share: which === "val" });
  const { root, x, y } = frame(wide, 300, all.map((p) => p[0]), vertical, { whole: true, xname: "epoch", title });
  Object.assign(root.dataset, { chart: "curve", of: which });
  const variants = [...new Set(panel.rows.map((row) => row.variant))].sort((a, b) => a - b);
  for (const { row, points } of lines) {
    const group = svg("g", { "data-method": row.method, "data-line": row.label });
    group.append(svg("path", { class: "line", stroke: hue(row.method), "stroke-dasharray": DASHES[variants.indexOf(row.variant) % DASHES.length],
      d: `M${points.map((p) => `${x(p[0]).toFixed(1)} ${y(scale * p[1]).toFixed(1)}`).join("L")}` }));
    const [epoch, last] = points.at(-1), end = mark(row, 3.5);
    end.setAttribute("transform", `translate(${x(epoch)} ${y(scale * last)})`);
    group.append(end, svg("title", {}, `${row.label}: ${which === "val" ? `${percent(last)} %` : short(last)} after epoch ${epoch}`));
    root.append(group);
  }
  figure.append(root);
  return figure;
}

// Where a method's budget of parameters went. Kinds of updates are gray: colours are of methods.
function layers(row, wide) {
  const parts = row.layers, kinds = [...new Set(parts.map((p) => p[1]))].sort(), totals = new Map();
  for (const [name, kind, count] of parts) {
    if (!totals.has(name)) totals.set(name, new Map());
    totals.get(name).set(kind, count);
  }
  const sum = (m) => [...m.values()].reduce((a, b) => a + b, 0), room = 0.4 * wide;
  const most = Math.max(...[...totals.values()].map(sum)), left = Math.min(room, Math.max(...[...totals.keys()].map(width))) + 12;
  const across = wide - left - 60, tall = 16 * totals.size + 8, figure = figureOf(`${row.label}: budget by layer`, wide);
  const root = svg("svg", { viewBox: `0 0 ${wide} ${tall}`, width: wide, height: tall, role: "img", "aria-label": `${row.label}: budget by layer` });
  [...totals].forEach(([name, counts], at) => {
    const y = 16 * at + 4;
    let x = left;
    root.append(svg("text", { x: left - 8, y: y + 10, "text-anchor": "end" }, width(name) > room ? `…${fitted([...name].reverse().join(""), room - 8).replace("…", "").split("").reverse().join("")}` : name));
    kinds.forEach((kind, k) => {
      if (!counts.has(kind)) return;
      const bar = svg("rect", { x, y, width: (across * counts.get(kind)) / most, height: 12, fill: `var(--k${k % 4})` });
      bar.append(svg("title", {}, `${name}, ${kind}: ${counts.get(kind).toLocaleString("en")}`));
      root.append(bar);
      x += (across * counts.get(kind)) / most;
    });
    root.append(svg("text", { x: x + 5, y: y + 10, class: "soft" }, short(sum(counts))));
  });
  const key = html("div", undefined, "legend");
  kinds.forEach((kind, k) => {
    const sample = html("i");
    sample.style.background = `var(--k${k % 4})`;
    key.append(item(sample, kind));
  });
  figure.append(key, root);
  return figure;
}

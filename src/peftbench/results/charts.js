"use strict";
// The charts of a report. page.js, which follows in the same script, calls draw() with what to show.

const NS = "http://www.w3.org/2000/svg";
function svg(name, attributes = {}, text) {
  const node = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  return node;
}
function html(name, text, kind) {
  const node = document.createElement(name);
  if (text !== undefined) node.textContent = text;
  if (kind) node.className = kind;
  return node;
}
const color = (i) => (i < 8 ? `var(--c${i})` : "var(--soft)");
const percent = (v) => (100 * v).toFixed(1);

const ticks = (low, high, log) => {
  if (log) {
    const values = [];
    for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++)
      for (const m of [1, 2, 5]) { const v = m * 10 ** e; if (v >= low && v <= high) values.push(v); }
    return values.length > 6 ? values.filter((v) => /^1/.test(v.toExponential())) : values;
  }
  const raw = (high - low) / 4 || 1, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
  const values = [];
  for (let v = Math.ceil(low / step) * step; v <= high + step / 1e6; v += step) values.push(v);
  return values;
};
const short = (v) => {
  for (const [unit, size] of [["G", 1e9], ["M", 1e6], ["k", 1e3]]) if (v >= size) return `${+(v / size).toPrecision(3)}${unit}`;
  return String(+v.toPrecision(3));
};

// A frame with axes: returns the drawing and the two scales.
function frame(width, height, xs, ys, { log = false, xform = short, yform = short, title = "" } = {}) {
  const left = 46, right = 12, top = 10, bottom = 30;
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": title });
  let [x0, x1] = [Math.min(...xs), Math.max(...xs)], [y0, y1] = [Math.min(...ys), Math.max(...ys)];
  if (log) { x0 /= 1.8; x1 *= 1.3; } else if (x0 === x1) { x0 -= 0.5; x1 += 0.5; }
  const pad = (y1 - y0) * 0.08 || Math.abs(y0) * 0.02 || 1;
  y0 -= pad; y1 += pad;
  const f = log ? Math.log10 : (v) => v;
  const x = (v) => left + ((f(v) - f(x0)) / (f(x1) - f(x0))) * (width - left - right);
  const y = (v) => height - bottom - ((v - y0) / (y1 - y0)) * (height - top - bottom);
  root.append(svg("path", { class: "axis", d: `M${left} ${top}V${height - bottom}H${width - right}` }));
  for (const v of ticks(x0, x1, log))
    root.append(svg("text", { x: x(v), y: height - bottom + 14, "text-anchor": "middle", class: "soft" }, xform(v)));
  for (const v of ticks(y0, y1, false))
    root.append(svg("text", { x: left - 5, y: y(v) + 4, "text-anchor": "end", class: "soft" }, yform(v)));
  return { root, x, y };
}

// What a board is judged by against one cost, with the Pareto fronts that the report computed.
function scatter(board, cost) {
  const shown = board.rows.map((row, i) => ({ row, i, x: row.costs[cost.key], y: row.value }))
    .filter((p) => !p.row.hidden && p.x !== null && p.y !== null && (cost.everywhere || p.row.comparable));
  const figure = html("figure");
  figure.append(html("figcaption", `${board.metric} % against ${cost.name}`));
  if (!shown.length) { figure.append(html("p", "there is nothing to compare", "note")); return figure; }
  const positive = shown.map((p) => p.x).filter((v) => v > 0), zero = positive.length < shown.length;
  const { root, x: scaled, y } = frame(400, 290, positive.length ? positive : [1], shown.map((p) => 100 * p.y), { log: true, title: `${board.metric} % against ${cost.name}` });
  root.dataset.cost = cost.key;
  const x = (v) => (v > 0 ? scaled(v) : 52); // a logarithm has no place for zero: it stands at the edge
  if (zero) root.append(svg("text", { x: 52, y: 274, "text-anchor": "middle", class: "soft" }, "0"));
  const by_row = new Map(shown.map((p) => [p.i, p])), front = new Set();
  for (const rows of board.fronts[cost.key]) {
    const line = rows.map((i) => by_row.get(i)).filter(Boolean); // the filter hides rows, and makes no other front
    line.forEach((p) => front.add(p.i));
    if (line.length) root.append(svg("path", { class: "front", d: line.map((p, k) => `${k ? "L" : "M"}${x(p.x)} ${y(100 * p.y)}`).join("") }));
  }
  for (const p of shown) {
    const [cx, cy] = [x(p.x), y(100 * p.y)];
    if (p.row.half !== null)
      root.append(svg("path", { stroke: color(p.i), d: `M${cx} ${y(100 * (p.y - p.row.half))}V${y(100 * (p.y + p.row.half))}` }));
    const point = svg("circle", { cx, cy, r: front.has(p.i) ? 5 : 3.5, stroke: color(p.i),
      fill: p.row.times ? "var(--ground)" : color(p.i), "data-label": p.row.label, "data-front": front.has(p.i) });
    point.append(svg("title", {}, `${p.row.label}: ${percent(p.y)} %, ${cost.form(p.x)}${p.row.times ? `, ${p.row.times}` : ""}${p.row.choice ? `, ${p.row.choice}` : ""}`));
    root.append(point);
    if (shown.length <= 20)
      root.append(svg("text", { x: cx > 300 ? cx - 8 : cx + 8, y: cy - 6, "text-anchor": cx > 300 ? "end" : "start" }, p.row.label));
  }
  figure.append(root);
  return figure;
}

function bars(board, task) {
  const rows = board.rows.map((row, i) => ({ row, i, cell: row.cells[task] })).filter((b) => !b.row.hidden && b.cell).slice(0, 16);
  const figure = html("figure");
  figure.append(html("figcaption", `${task}, %`));
  const height = 18 * rows.length + 22, left = 120, wide = 180;
  const root = svg("svg", { viewBox: `0 0 ${left + wide + 50} ${height}`, width: left + wide + 50, height, role: "img", "aria-label": task });
  rows.forEach(({ row, i, cell: [mean, half] }, at) => {
    const y = 18 * at + 4, label = row.label.length > 19 ? `${row.label.slice(0, 18)}…` : row.label;
    root.append(svg("text", { x: left - 6, y: y + 11, "text-anchor": "end" }, label));
    const bar = svg("rect", { x: left, y, width: wide * mean, height: 13, rx: 2, fill: color(i), "data-label": row.label, "data-task": task });
    bar.append(svg("title", {}, `${row.label}: ${percent(mean)}${half === null ? "" : ` ± ${percent(half)}`} %`));
    root.append(bar);
    if (half !== null) {
      const low = left + wide * Math.max(0, mean - half), high = left + wide * Math.min(1, mean + half);
      root.append(svg("path", { stroke: "var(--ink)", d: `M${low} ${y + 6.5}H${high}` }));
    }
    root.append(svg("text", { x: left + wide * Math.min(1, mean + (half ?? 0)) + 5, y: y + 11 }, percent(mean)));
  });
  figure.append(root);
  return figure;
}

function curves(board, task, which) {
  const lines = board.rows.map((row, i) => ({ row, i, curve: row.curves[task] })).filter((c) => !c.row.hidden && c.curve)
    .map((c) => ({ ...c, points: c.curve.epochs.map((e, k) => [e, c.curve[which][k]]).filter((p) => p[1] !== null) }))
    .filter((c) => c.points.length).slice(0, 16);
  const figure = html("figure");
  if (!lines.length) { figure.append(html("p", "no run recorded a curve", "note")); return figure; }
  const scale = which === "val" ? 100 : 1, all = lines.flatMap((l) => l.points);
  const { root, x, y } = frame(640, 300, all.map((p) => p[0]), all.map((p) => scale * p[1]), { title: `${task}, ${which}` });
  for (const line of lines) {
    const path = svg("path", { fill: "none", stroke: color(line.i), "stroke-width": 1.6,
      d: line.points.map((p, k) => `${k ? "L" : "M"}${x(p[0])} ${y(scale * p[1])}`).join("") });
    path.append(svg("title", {}, line.row.label));
    root.append(path);
    if (line.points.length === 1) root.append(svg("circle", { cx: x(line.points[0][0]), cy: y(scale * line.points[0][1]), r: 3, fill: color(line.i) }));
  }
  figure.append(root, legend(lines));
  return figure;
}

function legend(lines) {
  const box = html("div", undefined, "legend");
  for (const { row, i } of lines) {
    const item = html("span"), swatch = html("i");
    swatch.style.background = color(i);
    item.append(swatch, row.label);
    box.append(item);
  }
  return box;
}

function layers(row, task) {
  const parts = row.layers[task], kinds = [...new Set(parts.map((p) => p[1]))].sort();
  const totals = new Map();
  for (const [name, kind, count] of parts) {
    if (!totals.has(name)) totals.set(name, new Map());
    totals.get(name).set(kind, count);
  }
  const sum = (m) => [...m.values()].reduce((a, b) => a + b, 0);
  const most = Math.max(...[...totals.values()].map(sum)), left = 230, wide = 380;
  const root = svg("svg", { viewBox: `0 0 700 ${15 * totals.size + 10}`, width: 700, height: 15 * totals.size + 10, role: "img",
    "aria-label": `${row.label}: budget by layer` });
  [...totals].forEach(([name, counts], at) => {
    const y = 15 * at + 4;
    let x = left;
    root.append(svg("text", { x: left - 6, y: y + 10, "text-anchor": "end" }, name.length > 36 ? `…${name.slice(-35)}` : name));
    kinds.forEach((kind, k) => {
      if (!counts.has(kind)) return;
      const width = (wide * counts.get(kind)) / most;
      const bar = svg("rect", { x, y, width, height: 11, fill: color(k) });
      bar.append(svg("title", {}, `${name}, ${kind}: ${counts.get(kind).toLocaleString("en")}`));
      root.append(bar);
      x += width;
    });
    root.append(svg("text", { x: x + 5, y: y + 10, class: "soft" }, sum(counts).toLocaleString("en")));
  });
  const figure = html("figure");
  figure.append(legend(kinds.map((kind, i) => ({ row: { label: kind }, i }))), root);
  return figure;
}

function choice(options, act, label) {
  const box = html("label", `${label} `), list = html("select");
  for (const [value, text] of options) { const o = html("option", text); o.value = value; list.append(o); }
  list.addEventListener("change", () => act(list.value));
  box.append(list);
  return { box, list };
}

const COSTS = [
  { key: "train", name: "training time, s", form: (v) => `${short(v)} s` },
  { key: "memory", name: "peak memory, bytes", form: (v) => `${short(v)}B` },
  { key: "parameters", name: "trainable parameters, without the head", form: short, everywhere: true },
];

function draw(section, board) {
  const place = section.querySelector(".drawn");
  place.replaceChildren();
  const tasks = board.tasks.filter((t) => !board.query.tasks.length || board.query.tasks.includes(t));
  const part = (title) => { place.append(html("h3", title)); const box = html("div", undefined, "charts"); place.append(box); return box; };
  part(`What ${board.metric} costs`).append(...COSTS.map((c) => scatter(board, c)));
  place.append(html("p", "Dashed lines are Pareto fronts of all rows, each of one kind of times on one machine. Hollow points have "
    + "times from kept taps. Vertical lines are 95 % intervals. The charts leave out costs of several machines, times of runs trained "
    + "together, and rows without a mean.", "note"));
  part(`${board.metric[0].toUpperCase()}${board.metric.slice(1)} by task`).append(...tasks.map((t) => bars(board, t)));
  if (board.rows.some((r) => Object.keys(r.curves).length)) {
    const box = part("Learning curves"), holder = html("div");
    let task = tasks[0], which = board.rows.some((r) => r.curves[task]?.val.some((v) => v !== null)) ? "val" : "loss";
    const show = () => holder.replaceChildren(curves(board, task, which));
    const a = choice(tasks.map((t) => [t, t]), (v) => { task = v; show(); }, "task");
    const b = choice([["val", `validation ${board.primary}, %`], ["loss", "training loss"]], (v) => { which = v; show(); }, "of");
    b.list.value = which;
    const controls = html("div", undefined, "controls");
    controls.append(a.box, b.box);
    box.before(controls);
    box.append(holder);
    show();
  }
  const planned = board.rows.flatMap((row, i) => (row.hidden ? [] : Object.keys(row.layers).map((t) => [i, t])));
  if (planned.length) {
    const box = part("Where the budget went, by layer"), holder = html("div");
    const show = (at) => { const [i, t] = planned[at]; holder.replaceChildren(layers(board.rows[i], t)); };
    const c = choice(planned.map(([i, t], at) => [at, `${board.rows[i].label}, ${t}`]), show, "run");
    const controls = html("div", undefined, "controls");
    controls.append(c.box);
    box.before(controls);
    box.append(holder);
    show(0);
  }
}

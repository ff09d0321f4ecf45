"use strict";
// How a row looks on every chart and in every table. page.js, the last of these scripts, starts it all.

const report = JSON.parse(document.getElementById("data").textContent);
const HUES = 8; // as many colours as the style has: further methods take them again, with a bar through the mark

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
const pen = document.createElement("canvas").getContext("2d");
function width(text) {
  pen.font = "11px system-ui, sans-serif";
  return pen.measureText(text).width;
}
function fitted(text, most) {
  if (width(text) <= most) return text;
  let kept = text.length;
  while (kept > 1 && width(`${text.slice(0, kept)}…`) > most) kept--;
  return `${text.slice(0, kept).trimEnd()}…`;
}

const hue = (method) => `var(--c${method % HUES})`;
const regular = (corners, r, turn) => `M${Array.from({ length: corners }, (_, k) => {
  const angle = turn + (2 * Math.PI * k) / corners;
  return `${(r * Math.sin(angle)).toFixed(2)} ${(-r * Math.cos(angle)).toFixed(2)}`;
}).join("L")}Z`;
const SHAPES = [
  (r) => `M${-r} 0A${r} ${r} 0 1 1 ${r} 0A${r} ${r} 0 1 1 ${-r} 0Z`,
  (r) => regular(4, 1.25 * r, Math.PI / 4),
  (r) => regular(3, 1.35 * r, 0),
  (r) => regular(4, 1.3 * r, 0),
  (r) => regular(3, 1.35 * r, Math.PI),
  (r) => regular(5, 1.2 * r, 0),
  (r) => { const a = r / 2.6, b = 1.2 * r; return `M${-a} ${-b}H${a}V${-a}H${b}V${a}H${a}V${b}H${-a}V${a}H${-b}V${-a}H${-a}Z`; },
  (r) => regular(6, 1.15 * r, Math.PI / 6),
];
const BARS = ["", "M-9 0H9", "M0-9V9", "M-9 0H9M0-9V9"]; // by how often the colours were taken before
const DASHES = ["", "6 3", "2 2.5", "8 3 2 3", "1 3", "10 4", "4 2 1 2", "3 5"];

// The mark of a row around (0, 0); a hollow one has times of another kind.
function mark({ method, variant = 0, hollow = false }, r = 4.5) {
  const group = svg("g", { class: "mark" });
  const shape = SHAPES[variant % SHAPES.length](r), bar = BARS[Math.floor(method / HUES) % BARS.length];
  const attributes = { d: shape, fill: hollow ? "var(--ground)" : hue(method), stroke: hue(method), "stroke-width": hollow ? 2 : 1 };
  group.append(svg("path", attributes));
  if (bar) {
    const scaled = bar.replaceAll("9", String(0.95 * r));
    group.append(svg("path", { d: scaled, stroke: hollow ? hue(method) : "var(--ground)", "stroke-width": 0.35 * r, fill: "none" }));
  }
  return group;
}
function swatch(look) {
  const root = svg("svg", { class: "swatch", viewBox: "-8 -8 16 16", width: 13, height: 13, "aria-hidden": true });
  root.append(mark(look, 5.5));
  return root;
}
function item(look, text) {
  const box = html("span", undefined, "item");
  box.append(look, text);
  return box;
}

// Which colours and shapes are on a panel; a method's name shows where it is when it is pointed at.
function legend(rows) {
  const box = html("div", undefined, "legend");
  for (const method of [...new Set(rows.map((r) => r.method))].sort((a, b) => a - b)) {
    const entry = item(swatch({ method }), report.methods[method]);
    entry.dataset.method = method;
    box.append(entry);
  }
  const variants = [...new Set(rows.map((r) => r.variant))].sort((a, b) => a - b);
  if (variants.length > 1) box.append(html("span", undefined, "break"));
  if (variants.length > 1)
    for (const variant of variants) {
      const sample = svg("svg", { class: "swatch gray", viewBox: "-8 -8 16 16", width: 13, height: 13, "aria-hidden": true });
      sample.append(svg("path", { d: SHAPES[variant % SHAPES.length](5.5), fill: "var(--soft)" }));
      box.append(item(sample, report.variants[variant]));
    }
  if (rows.some((r) => r.times)) {
    const sample = svg("svg", { class: "swatch", viewBox: "-8 -8 16 16", width: 13, height: 13, "aria-hidden": true });
    sample.append(svg("path", { d: SHAPES[0](5), fill: "none", stroke: "var(--soft)", "stroke-width": 2 }));
    box.append(item(sample, `hollow: ${[...new Set(rows.map((r) => r.times).filter(Boolean))].join(" or ")}`));
  }
  return box;
}
function figureOf(title, wide) {
  const figure = html("figure");
  figure.style.width = `${wide}px`;
  figure.append(html("figcaption", title));
  return figure;
}

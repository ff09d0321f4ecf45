// Axes: whole numbers and round figures on ticks, and room for all that is drawn.

const percent = (v) => (100 * v).toFixed(1);
const short = (v) => {
  for (const [unit, size] of [["G", 1e9], ["M", 1e6], ["k", 1e3]]) if (v >= size) return `${+(v / size).toPrecision(3)}${unit}`;
  return String(+v.toPrecision(3));
};
const bytes = (v) => {
  for (const [unit, size] of [["TB", 1e12], ["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) if (v >= size) return `${+(v / size).toPrecision(3)} ${unit}`;
  return `${+v.toPrecision(3)} B`;
};
const duration = (v) => {
  if (v >= 3600) return `${+(v / 3600).toPrecision(2)} h`;
  if (v >= 300 || (v >= 60 && v % 60 === 0)) return `${+(v / 60).toPrecision(2)} min`;
  return v >= 1 ? `${+v.toPrecision(v >= 100 ? 3 : 2)} s` : `${+(1000 * v).toPrecision(2)} ms`;
};

function linear(low, high, most, whole) {
  const raw = (high - low) / most || 1, power = 10 ** Math.floor(Math.log10(raw));
  let step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw * 0.999);
  if (whole) step = Math.max(1, Math.round(step));
  const values = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step / 1e6; k++) values.push(k * step);
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  return values.map((v) => [v, v.toFixed(digits)]);
}
const TIMES = [1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 18000, 36000, 72000].flatMap((s) => (s < 60 ? [s] : s));
function logarithmic(low, high, most, form) {
  const decades = (ms) => {
    const found = [];
    for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++) for (const m of ms) found.push(m * 10 ** e);
    return found;
  };
  const fine = form === duration && low >= 1 && high < 72000 ? [TIMES, TIMES.filter((v, k) => k % 3 === 0)] : [];
  const tries = [...fine, decades([1, 2, 5]), decades([1, 3]), decades([1]), decades([1]).filter((v) => Math.round(Math.log10(v)) % 2 === 0)];
  const inside = tries.map((values) => values.filter((v) => v >= low * 0.999 && v <= high * 1.001));
  const fitting = inside.find((values) => values.length <= most) ?? inside.at(-1);
  if (fitting.length > 1) return fitting.map((v) => [v, form(v)]);
  return linear(low, high, Math.min(most, 4), false).map(([v]) => [v, form(v)]); // all costs are nearly alike
}

// The ends of a linear axis that holds all values with some air, and no share above all or below nothing.
function ends(values, { share = false } = {}) {
  let low = Math.min(...values), high = Math.max(...values);
  const air = 0.06 * (high - low) || (share ? 1 : Math.abs(low) * 0.05 || 1);
  low -= air; high += air;
  return share ? [Math.max(low, Math.min(0, low + air)), Math.min(high, Math.max(100, high - air))] : [low, high];
}

// A frame with axes: the drawing, its two scales and the rectangle that they fill.
function frame(wide, high, xs, [y0, y1], { log = false, whole = false, xform = short, xname = "", zero = false, title = "" } = {}) {
  const left = 42, right = 14, top = 8, bottom = 40, gap = zero ? 30 : 0;
  const root = svg("svg", { viewBox: `0 0 ${wide} ${high}`, width: wide, height: high, role: "img", "aria-label": title });
  let x0 = Math.min(...xs), x1 = Math.max(...xs);
  if (log) { const air = Math.max(1.15, (x1 / x0) ** 0.06); x0 /= air; x1 *= air; } else if (x0 === x1) { x0 -= 1; x1 += 1; }
  const f = log ? Math.log10 : (v) => v, box = { left: left + gap, right: wide - right, top, bottom: high - bottom };
  const x = (v) => box.left + ((f(v) - f(x0)) / (f(x1) - f(x0))) * (box.right - box.left);
  const y = (v) => box.bottom - ((v - y0) / (y1 - y0)) * (box.bottom - box.top);
  for (const [v, text] of linear(y0, y1, 5, false)) {
    root.append(svg("path", { class: "grid", d: `M${left} ${y(v)}H${box.right}` }));
    root.append(svg("text", { x: left - 6, y: y(v) + 4, "text-anchor": "end", class: "soft", "data-tick": "y" }, text));
  }
  root.append(svg("path", { class: "axis", d: `M${left} ${top}V${box.bottom}H${box.right}` }));
  const room = Math.max(2, Math.floor((box.right - box.left) / 55));
  for (const [v, text] of log ? logarithmic(x0, x1, room, xform) : linear(x0, x1, room, whole)) {
    const at = x(v), over = Math.max(0, at + width(text) / 2 - wide);
    root.append(svg("path", { class: "axis", d: `M${at} ${box.bottom}v4` }));
    root.append(svg("text", { x: at - over, y: box.bottom + 16, "text-anchor": "middle", class: "soft", "data-tick": "x" }, text));
  }
  if (zero) root.append(svg("text", { x: left + 12, y: box.bottom + 16, "text-anchor": "middle", class: "soft", "data-tick": "x" }, "0"));
  root.append(svg("text", { x: (left + box.right) / 2, y: high - 6, "text-anchor": "middle", class: "soft" }, xname));
  Object.assign(root.dataset, { left, right: box.right, top, bottom: box.bottom });
  return { root, x, y, box, nothing: left + 12 };
}

// The drawings of a run's page. The tables and pictures are in the page already.

const wholes = (n) => n.toLocaleString("en");
const share = (v) => `${(100 * v).toFixed(1)} %`;

const drawings = {
  // A line over epochs.
  curve({ points, share }, wide, title) {
    const vertical = ends(points.map((p) => p[1]), { share });
    const { root, x, y } = frame(wide, 260, points.map((p) => p[0]), vertical, { whole: true, xname: "epoch", title });
    root.append(svg("path", { class: "line", stroke: "var(--mark)", d: `M${points.map((p) => `${x(p[0]).toFixed(1)} ${y(p[1]).toFixed(1)}`).join("L")}` }));
    for (const [epoch, value] of points) {
      const point = svg("circle", { cx: x(epoch), cy: y(value), r: points.length > 30 ? 1.5 : 2.6, fill: "var(--mark)" });
      point.append(svg("title", {}, `${short(value)} after epoch ${epoch}`));
      root.append(point);
    }
    return root;
  },

  // One line a row, with a mark for each of its figures, all of them shares.
  bars({ names, rows, unit }, wide, title) {
    const most = 0.36 * wide, shown = rows.map((row) => fitted(row.name, most));
    const left = Math.max(...shown.map(width), 20) + 12, right = wide - 52, top = 6, bottom = top + 18 * rows.length, tall = bottom + 36;
    const x = (v) => left + v * (right - left);
    const root = svg("svg", { viewBox: `0 0 ${wide} ${tall}`, width: wide, height: tall, role: "img", "aria-label": title });
    for (const [v, text] of linear(0, 100, wide < 420 ? 2 : 5, false)) {
      root.append(svg("path", { class: "grid", d: `M${x(v / 100)} ${top}V${bottom}` }));
      root.append(svg("text", { x: x(v / 100), y: bottom + 15, "text-anchor": "middle", class: "soft" }, text));
    }
    root.append(svg("text", { x: (left + right) / 2, y: tall - 5, "text-anchor": "middle", class: "soft" }, unit));
    rows.forEach((row, at) => {
      const middle = top + 18 * at + 9;
      root.append(svg("text", { x: left - 8, y: middle + 4, "text-anchor": "end", "data-bar": row.name }, shown[at]));
      const known = row.values.filter((v) => v !== null);
      if (known.length > 1) root.append(svg("path", { class: "axis", d: `M${x(Math.min(...known))} ${middle}H${x(Math.max(...known))}` }));
      row.values.forEach((value, k) => {
        if (value === null) return;
        const point = mark({ method: k, variant: k }, 4);
        point.setAttribute("transform", `translate(${x(value).toFixed(1)} ${middle})`);
        point.append(svg("title", {}, `${row.name}, ${names[k]}: ${share(value)}`));
        root.append(point);
      });
      root.append(svg("text", { x: right + 10, y: middle + 4, class: "soft" }, row.told));
    });
    return root;
  },

  // Rows are the truth, columns what was said; a cell's shade is its share of the row.
  matrix({ classes, cells, sums }, wide, title) {
    const n = classes.length, named = n <= 40, names = classes.map((c) => fitted(c, named ? 0.28 * wide : 0));
    const room = named ? Math.max(...names.map(width)) + 8 : 6;
    const side = Math.min(26, (wide - room - 4) / n), tall = room + side * n + 22;
    const root = svg("svg", { viewBox: `0 0 ${wide} ${tall}`, width: wide, height: tall, role: "img", "aria-label": title });
    const label = side >= 9;
    names.forEach((name, i) => {
      const at = room + side * (i + 0.5);
      if (!named || !label) return;
      root.append(svg("text", { x: room - 5, y: at + 4, "text-anchor": "end", "data-class": classes[i] }, name));
      root.append(svg("text", { transform: `translate(${at + 4} ${room - 5}) rotate(-90)` }, name));
    });
    root.append(svg("rect", { x: room, y: room, width: side * n, height: side * n, fill: "var(--band)" }));
    for (const [row, column, count] of cells) {
      const part = count / sums[row], cell = svg("rect", {
        class: `cell ${row === column ? "right" : "wrong"}`, x: room + side * column, y: room + side * row, width: side, height: side,
        "fill-opacity": (0.15 + 0.85 * part).toFixed(2), "data-cell": `${row},${column}`,
      });
      cell.append(svg("title", {}, `${classes[row]} taken for ${classes[column]}: ${wholes(count)} of ${wholes(sums[row])}`));
      root.append(cell);
      if (side >= 17) root.append(svg("text", { x: room + side * (column + 0.5), y: room + side * (row + 0.5) + 4, "text-anchor": "middle", "pointer-events": "none", style: part > 0.55 ? "fill:var(--ground)" : "" }, count > 999 ? "…" : String(count)));
    }
    root.append(svg("text", { x: room, y: tall - 6, class: "soft" }, "down: the truth; across: what the model said"));
    return root;
  },

  // How sure the model was, and how often it was right then; on the line both are equal.
  reliability({ bins }, wide, title) {
    const { root, x, y } = frame(wide, 300, [0, 100], [0, 100], { xname: "how sure, %", title }), most = Math.max(...bins.map((b) => b[2]));
    root.append(svg("path", { class: "front", d: `M${x(0)} ${y(0)}L${x(100)} ${y(100)}` }));
    root.append(svg("path", { class: "line", stroke: "var(--mark)", d: `M${bins.map(([sure, right]) => `${x(100 * sure).toFixed(1)} ${y(100 * right).toFixed(1)}`).join("L")}` }));
    for (const [sure, right, count] of bins) {
      const point = svg("circle", { cx: x(100 * sure), cy: y(100 * right), r: 2 + 5 * Math.sqrt(count / most), fill: "var(--mark)", "fill-opacity": 0.75, "data-bin": count });
      point.append(svg("title", {}, `${share(sure)} sure, ${share(right)} right, ${wholes(count)} images`));
      root.append(point);
    }
    return root;
  },
};

const LEGENDS = { bars: ({ names }) => names };
const SIZES = { curve: 460, bars: 620, matrix: 720, reliability: 460 };

function drawAll() {
  for (const place of document.querySelectorAll("[data-drawing]")) {
    const { kind, title, content } = report.charts[Number(place.dataset.drawing)];
    const room = place.parentElement.clientWidth, wide = Math.floor(Math.min(room, SIZES[kind]));
    const figure = figureOf(title, wide), root = drawings[kind](content, wide, title);
    Object.assign(root.dataset, { chart: kind });
    if (LEGENDS[kind]) {
      const box = html("div", undefined, "legend");
      LEGENDS[kind](content).forEach((name, k) => box.append(item(swatch({ method: k, variant: k }), name)));
      figure.append(box);
    }
    figure.append(root);
    place.replaceChildren(figure);
  }
}
document.documentElement.classList.add("js");
drawAll();
let drawn = document.documentElement.clientWidth;
addEventListener("resize", () => {
  if (drawn !== document.documentElement.clientWidth) drawAll();
  drawn = document.documentElement.clientWidth;
});

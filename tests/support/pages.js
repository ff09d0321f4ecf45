// Reads what a reader sees of each page in this one; Python's `look` writes the frames.
"use strict";
const round = (box) => [box.left, box.top, box.right, box.bottom].map((v) => Math.round(100 * v) / 100);
const tops = (boxes) => [...boxes].map((box) => Math.round(box.top));
const widthOf = (root) => root.getBoundingClientRect().width;

// A node's rectangle in the units of its drawing.
function relative(node, root) {
  const a = node.getBoundingClientRect(), b = root.getBoundingClientRect(), scale = root.viewBox.baseVal.width / b.width;
  const [left, right] = [a.left, a.right].map((v) => (v - b.left) * scale);
  const [top, bottom] = [a.top, a.bottom].map((v) => (v - b.top) * scale);
  return round({ left, top, right, bottom });
}

function read(page) {
  const view = page.defaultView, all = (query, root = page) => [...root.querySelectorAll(query)];
  const colour = (node) => {
    const style = view.getComputedStyle(node);
    return style.stroke !== "none" ? style.stroke : style.fill;
  };
  const markOf = (node) => {
    const paths = all("path", node);
    return {
      ...node.dataset,
      colour: colour(paths[0]),
      told: node.querySelector("title").textContent,
      shape: paths.length + paths[0].getAttribute("d"),
      at: node.getAttribute("transform").match(/[-\d.]+/g).map(Number),
    };
  };
  const chartOf = (root) => ({
    ...root.dataset,
    panel: (root.closest(".panel")?.querySelector("h3") ?? root.closest("figure").querySelector("figcaption")).textContent,
    title: root.getAttribute("aria-label"),
    width: widthOf(root),
    scale: widthOf(root) / root.viewBox.baseVal.width,
    place: round(root.getBoundingClientRect()),
    marks: all("[data-value]", root).map(markOf),
    whiskers: all("[data-whisker]", root).map((node) => ({ label: node.dataset.whisker, box: relative(node, root) })),
    lines: all("[data-line]", root).map((node) => ({ label: node.dataset.line, colour: colour(node.querySelector("path")) })),
    names: all("[data-name]", root).map((node) => ({ label: node.dataset.name, box: relative(node, root) })),
    ticks: all("[data-tick]", root).map((node) => {
      const axis = node.dataset.tick;
      return [axis, node.textContent, Number(node.getAttribute(axis))];
    }),
    texts: all("text", root).map((node) => relative(node, root)),
  });
  const rowOf = (line) => ({
    hidden: line.hidden,
    cells: [...line.cells].map((cell) => cell.textContent),
    bold: all("b", line).filter((node) => Number(view.getComputedStyle(node).fontWeight) >= 600).map((node) => node.textContent),
    swatches: all(".swatch", line).map((node) => [node.parentNode.textContent, colour(node.querySelector("path"))]),
  });
  const charts = all("svg[data-chart]").map(chartOf);
  const outside = all("body *").filter((node) => !node.closest(".scroll") && !node.closest("svg"));
  return {
    charts,
    rows: all("tbody tr").map(rowOf),
    count: page.getElementById("count")?.textContent,
    headings: all("h1,h2,h3").map((node) => node.textContent),
    drawn: all("svg[role=img]").map((node) => node.getAttribute("aria-label")),
    legend: all(".legend [data-method]").map((node) => [node.textContent, colour(node.querySelector("path"))]),
    // Cells of the first column, in the pieces that may stand on lines of their own, of which a word is broken.
    broken: all("td:first-child").filter((cell) => [...cell.childNodes].some((node) => {
      const range = page.createRange();
      range.selectNodeContents(node);
      return node.nodeType === 3 && !/\s/.test(node.data) && new Set(tops(range.getClientRects())).size > 1;
    })).map((cell) => cell.textContent),
    scrolled: all(".scroll").filter((box) => box.scrollWidth > box.clientWidth).map((box) => view.getComputedStyle(box).backgroundImage),
    overflow: page.documentElement.scrollWidth - page.documentElement.clientWidth,
    widest: Math.max(...outside.map((node) => node.getBoundingClientRect().right)),
    smallest: Math.min(...charts.map((chart) => 11 * chart.scale)),
    text: page.body.innerText,
    // Of each picture its width on the screen and in its file: 0 where it is not shown.
    pictures: all("img").map((node) => [Math.round(widthOf(node)), node.naturalWidth]),
  };
}

addEventListener("load", () => {
  const seen = {};
  for (const frame of document.querySelectorAll("iframe")) seen[frame.title] = read(frame.contentDocument);
  document.getElementById("seen").textContent = JSON.stringify(seen);
});

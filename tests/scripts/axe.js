// For each frame: how much it is wider than its window, and the serious violations that axe finds.
addEventListener("load", () =>
  setTimeout(async () => {
    const seen = {};
    for (const frame of document.querySelectorAll("iframe")) {
      const inside = frame.contentWindow;
      const result = await inside.axe.run(inside.document, { iframes: false });
      seen[frame.title] = {
        scheme: inside.document.body.dataset.mdColorScheme,
        over: inside.document.documentElement.scrollWidth - inside.innerWidth,
        violations: result.violations
          .filter((found) => ["serious", "critical"].includes(found.impact))
          .map((found) => [found.id, found.nodes.map((node) => node.html.slice(0, 160)).slice(0, 3)]),
      };
    }
    document.getElementById("seen").textContent = JSON.stringify(seen);
  }, 1000),
);

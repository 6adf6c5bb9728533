"use strict";
(() => {
  const field = document.getElementById("search");
  if (!field) return;
  const shelves = [...document.querySelectorAll(".shelf")].map((node) => [node, node.textContent.toLowerCase()]);
  const told = document.getElementById("found");
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const [node, text] of shelves) {
      node.hidden = !words.every((word) => text.includes(word));
      shown += node.hidden ? 0 : 1;
    }
    told.textContent = words.length ? `${shown} of ${shelves.length} shown` : "";
  });
})();

"use strict";
(() => {
  const seen = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      if (target.scrollWidth > target.clientWidth) target.tabIndex = 0;
      else target.removeAttribute("tabindex");
    }
  });
  for (const node of document.querySelectorAll(".scroll")) seen.observe(node); // what moves sideways moves by keys too
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

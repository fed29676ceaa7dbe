document.documentElement.classList.add("js");

// A click on a heading sorts by it; again, the other way. What was not measured stays last.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const text = heads[column].dataset.kind === "text";
    const before = head.getAttribute("aria-sort");
    const down = before ? before === "ascending" : !text;
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => row.cells[column].dataset.sort ?? row.cells[column].textContent.trim();
    const compare = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      return (down ? -1 : 1) * (text ? x.localeCompare(y, undefined, { numeric: true }) : x - y);
    };
    body.append(...[...body.rows].sort(compare));
  }));
}

// What is wider than its card says so, until its end is in view.
const wide = [...document.querySelectorAll(".scroll, .tall")];
const hints = new Map();
function look(box) {
  const over = box.scrollWidth > box.clientWidth + 2;
  box.toggleAttribute("data-more", over && box.scrollLeft + box.clientWidth < box.scrollWidth - 2);
  if (over && !hints.has(box)) {
    const hint = document.createElement("p");
    hint.className = "swipe";
    hint.textContent = "Scroll sideways to see all \u2192";
    box.before(hint);
    hints.set(box, hint);
  }
  if (hints.has(box)) hints.get(box).hidden = !over;
}
wide.forEach((box) => box.addEventListener("scroll", () => look(box), { passive: true }));
const every = () => wide.forEach(look);
addEventListener("resize", every);
addEventListener("load", every);
every();

// Paper has no disclosure triangles.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));

// What is wrong with how a page looks; each function gives a list of what it has found.

function clipped() { // text that is wider than its box
  return [...document.querySelectorAll("body *")].filter((node) => {
    const style = getComputedStyle(node);
    if (node instanceof SVGElement || !node.clientWidth) return false;
    if (["auto", "scroll"].includes(style.overflowX) || node.matches("input, select, progress")) return false;
    if (node.closest("thead") && getComputedStyle(node.closest("thead")).position === "absolute") return false;
    return node.scrollWidth > node.clientWidth + 1;
  }).map((node) => `${node.tagName} ${node.textContent.slice(0, 40)}`);
}

function outside() { // labels of a chart that stick out of it
  return [...document.querySelectorAll(".chart text")].filter((node) => {
    const own = node.getBoundingClientRect(), box = node.ownerSVGElement.getBoundingClientRect();
    return own.left < box.left - 1 || own.right > box.right + 1 || own.top < box.top - 1
      || own.bottom > box.bottom + 1;
  }).map((node) => node.textContent);
}

function luminance(color) { // WCAG 2.2, relative luminance
  const [r, g, b] = color.match(/[\d.]+/g).map((part) => {
    const value = part / 255;
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

function faint() { // text with a contrast below 4.5 to what is behind it
  const texts = "h1, h2, dt, dd, td, th, li, p, .badge, .key, .lane span";
  return [...document.querySelectorAll(texts)].filter((node) => {
    if (!node.textContent.trim() || !node.offsetWidth) return false;
    let behind = node;
    while (behind && getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
    const back = getComputedStyle(behind ?? document.body).backgroundColor;
    const [a, b] = [luminance(getComputedStyle(node).color), luminance(back)];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) < 4.5;
  }).map((node) => `${node.className} ${node.tagName} ${node.textContent.slice(0, 30)}`);
}

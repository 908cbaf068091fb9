// What scrolls sideways, as a table on a narrow screen does, can be reached by keys.
function reachable() {
  for (const box of document.querySelectorAll("article pre, article .table-wrapper, .cell_output table"))
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
}
reachable();
addEventListener("resize", reachable);

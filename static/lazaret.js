// Small comforts for the lists. Every action works without this file too.
(() => {
  "use strict";
  const find = (selector, root = document) => root.querySelector(selector);
  const boxes = () => [...document.querySelectorAll('#list input[name="id"]')];

  // Choosing messages: "all on this page" ticks the boxes, "all that match" ticks everything.
  function showChosen() {
    const list = find("#list"), chosen = list && find("#chosen", list);
    if (!chosen) return;
    const all = boxes(), ticked = all.filter((box) => box.checked).length;
    const page = find("#choose-page", list), matching = find("#choose-matching", list);
    page.checked = all.length > 0 && ticked === all.length;
    page.indeterminate = ticked > 0 && ticked < all.length;
    chosen.hidden = ticked === 0 || Boolean(matching && matching.checked);
    chosen.textContent = `${ticked} chosen`;
  }
  document.addEventListener("change", (event) => {
    const box = event.target;
    if (!box.closest || !box.closest("#list")) return;
    const matching = find("#choose-matching");
    if (box.id === "choose-page" || box.id === "choose-matching") boxes().forEach((one) => { one.checked = box.checked; });
    if (matching && box !== matching && !box.checked) matching.checked = false;
    showChosen();
  });
  let last = null; // shift and click chooses all between
  document.addEventListener("click", (event) => {
    const box = event.target;
    if (!(box instanceof HTMLInputElement) || box.name !== "id") return;
    const all = boxes();
    if (event.shiftKey && last && all.includes(last)) {
      const [from, to] = [all.indexOf(last), all.indexOf(box)].sort((one, other) => one - other);
      all.slice(from, to + 1).forEach((one) => { one.checked = box.checked; });
      showChosen();
    }
    last = box;
  });
  document.addEventListener("htmx:afterSettle", () => {
    showChosen();
    const notice = find("#status .notice"); // what was done is said at the top: it must be seen
    if (notice && notice.getBoundingClientRect().top < 0) find("#status").scrollIntoView({ block: "start" });
  });
  window.addEventListener("pageshow", showChosen);

  // The question before deleting.
  const dialog = find("#dialog");
  document.addEventListener("open-dialog", () => dialog && !dialog.open && setTimeout(() => dialog.showModal(), 0));
  document.addEventListener("close-dialog", () => {
    if (!dialog || !dialog.open) return;
    dialog.close();
    setTimeout(() => { const back = find("#act-delete") || find("#main"); if (back) back.focus(); }, 50);
  });
  document.addEventListener("click", (event) => {
    if (dialog && dialog.open && event.target.closest && event.target.closest("[data-close]")) {
      event.preventDefault();
      dialog.close();
    }
  });

  // Messages on their way: look again until the mail server has answered, unless somebody is choosing.
  // A server that is down may not answer for days: the pause grows, until somebody does something or comes back.
  const SHORTEST = 2500, LONGEST = 60000, REFRESH = "Lazaret-Refresh";
  const isRefresh = (event) => REFRESH in event.detail.requestConfig.headers;
  let pause = SHORTEST, waiting = 0;
  function lookAgain() {
    const list = find("#list[data-watched]");
    const focused = document.activeElement; // who walks the list by keyboard keeps the place; htmx restores only what has an id
    wait();
    if (!list || (list.contains(focused) && !focused.id) || document.hidden || boxes().some((box) => box.checked) || (dialog && dialog.open)) return;
    pause = Math.min(pause * 1.5, LONGEST);
    wait();
    window.htmx.ajax("GET", location.pathname + location.search, { target: "#list", swap: "outerHTML", headers: { [REFRESH]: "1" } });
  }
  function wait() {
    clearTimeout(waiting);
    waiting = setTimeout(lookAgain, pause);
  }
  function hurry() {
    pause = SHORTEST;
    wait();
  }
  wait();
  document.addEventListener("htmx:beforeRequest", (event) => { if (!isRefresh(event)) hurry(); });
  document.addEventListener("visibilitychange", hurry);

  // What the server refuses or fails to answer must be seen too.
  function complain(text) {
    const status = find("#status"), notice = document.createElement("div");
    notice.className = "notice error";
    notice.textContent = text;
    if (status) status.replaceChildren(notice);
  }
  document.addEventListener("htmx:sendError", (event) => isRefresh(event) || complain("The server cannot be reached. Nothing was changed."));
  document.addEventListener("htmx:responseError", (event) => isRefresh(event) ||
    complain(event.detail.xhr.status === 404 ? "One of those messages is not there any more. Reload the page." : "That did not work. Reload the page and try again."));

  // Menus close by Escape and by a click elsewhere.
  const closeMenus = (except) => document.querySelectorAll("details.menu[open]").forEach((menu) => { if (menu !== except) menu.open = false; });
  document.addEventListener("click", (event) => closeMenus(event.target.closest && event.target.closest("details.menu")));
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    const menu = find("details.menu[open]");
    if (menu) { menu.open = false; find("summary", menu).focus(); }
  });
})();

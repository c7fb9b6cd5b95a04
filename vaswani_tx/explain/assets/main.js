// Put the page together: the header, the sections that this model has, the theme, and the address.

import { SECTIONS } from "./sections.js";
import { grouped, h, tokenElement, unpack } from "./core.js";
import { followAddress } from "./state.js";

// The order of the story. A file of `sections/` adds to SECTIONS: {id, title, applies(page), render(root, page)}.
const STORY = ["why", "steps", "attention", "heads", "positions", "blocks", "decoding", "architecture", "training", "family"];

async function start() {
  const { meta, arrays } = await unpack(document.getElementById("data").textContent);
  const page = { meta, array: (name) => arrays.get(name), has: (name) => arrays.has(name) };
  const sections = STORY.map((id) => SECTIONS.find((section) => section.id === id)).filter((section) => section && section.applies(page));
  const main = h("main", { id: "story" });
  const links = h("ol", {}, sections.map((section) => h("li", {}, h("a", { href: "#" + section.id }, section.title))));
  document.body.append(
    h("a", { class: "skip", href: "#story" }, "Skip to the story"),
    header(page),
    h("div", { class: "columns" }, h("nav", { "aria-label": "Sections" }, links), main),
    h("footer", {}, "Made by vaswani-tx from one forward pass of this model. Section numbers are those of Vaswani et al. 2017, \u201cAttention Is All You Need\u201d."),
  );
  for (const section of sections) {
    const root = h("section", { id: section.id, "aria-labelledby": section.id + "-title" }, h("h2", { id: section.id + "-title" }, section.title));
    main.append(root);
    section.render(root, page);
  }
  watchSections(links);
  addEventListener("hashchange", followAddress);
  followAddress();
  document.documentElement.dataset.ready = "true";
}

function header(page) {
  const { model, family } = page.meta;
  const names = { "encoder-decoder": "encoder-decoder", decoder: "decoder-only", encoder: "encoder-only", image: "image model" };
  const sides = [["source", page.meta.source], [family === "decoder" ? "text" : "target", page.meta.target]];
  return h("header", {},
    h("div", { class: "title" }, h("h1", {}, "Inside ", h("bdi", {}, model.name)), themeButton()),
    h("p", { class: "facts" }, `${model.class}, ${names[family]}, ${grouped(model.parameters)} parameters`),
    family === "image" ? null : sides.filter(([, tokens]) => tokens.length).map(([side, tokens]) =>
      h("p", { class: "sentence" }, h("span", { class: "side" }, side), h("bdi", {}, tokens.map((token) => tokenElement(token))))));
}

function themeButton() {
  const root = document.documentElement;
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);
  const button = h("button", {
    type: "button", class: "theme",
    onclick: () => {
      root.dataset.theme = dark() ? "light" : "dark";
      tell();
    },
  });
  const tell = () => {
    button.textContent = dark() ? "Light" : "Dark";
    button.setAttribute("aria-label", dark() ? "Use light colours" : "Use dark colours");
    dispatchEvent(new Event("themechange"));
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", tell);
  let chosen;
  addEventListener("beforeprint", () => {
    chosen = root.dataset.theme;
    root.dataset.theme = "light";  // paper is white, and canvases are drawn again
    tell();
  });
  addEventListener("afterprint", () => {
    if (chosen === undefined) delete root.dataset.theme;
    else root.dataset.theme = chosen;
    tell();
  });
  tell();
  return button;
}

function watchSections(links) {
  const watcher = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        for (const link of links.querySelectorAll("a")) {
          if (link.getAttribute("href") === "#" + entry.target.id) link.setAttribute("aria-current", "true");
          else link.removeAttribute("aria-current");
        }
      }
    },
    { rootMargin: "-20% 0px -70% 0px" },
  );
  for (const section of document.querySelectorAll("main > section")) watcher.observe(section);
}

start().catch((error) => {
  document.body.append(h("p", { role: "alert", class: "failure" }, "This page could not be drawn: " + error.message));
  throw error;
});

// A turning model of the molecule that the page around hands over. This frame is in a sandbox: it may run our
// scripts and nothing else, and has no access to the page, its session or the server.
"use strict";

const FEW_ATOMS = 200; // ribbons say nothing of so few
const SPEED = 20 / 1000; // degrees in a millisecond
const LIGHT = 40; // milliseconds for a picture: above that the page around lags while the model turns
const SURE = 3; // so many heavy ones after another are no chance

/** Whatever draws it, wait until it is drawn: without a graphics card pictures are asked for faster than they are
 * drawn, and while they queue up the page around is not drawn either, so that clicks meet what is no longer there. */
function wait(viewer) {
  const gl = viewer.getRenderer().getContext();
  const pixel = new Uint8Array(4);
  viewer.setViewChangeCallback(() => gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, pixel));
}

/** Turn it for as long as that is light work. */
function turn(viewer) {
  let before = performance.now();
  let heavy = 0;
  const step = () => {
    const begun = performance.now();
    viewer.rotate(SPEED * Math.min(begun - before, 1000), "y");
    before = begun;
    heavy = performance.now() - begun > LIGHT ? heavy + 1 : 0;
    if (heavy < SURE) requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
}

/** Offer the models of an ensemble one after the other. */
function page(viewer) {
  const models = viewer.getNumFrames();
  let shown = 0;
  const go = async (by) => {
    shown = (shown + by + models) % models;
    await viewer.setFrame(shown);
    viewer.render();
    document.getElementById("which").textContent = `model ${shown + 1} of ${models}`;
  };
  document.getElementById("previous").addEventListener("click", () => go(-1));
  document.getElementById("next").addEventListener("click", () => go(1));
  document.getElementById("models").hidden = false;
  go(0);
}

window.addEventListener("message", (event) => {
  if (event.source !== window.parent) return;
  const said = document.getElementById("said");
  try {
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const viewer = window.$3Dmol.createViewer(document.getElementById("model"), {
      backgroundColor: dark ? "#1a2129" : "white",
      upscale: false, // edges are smooth without, at a third of the work
    });
    wait(viewer);
    const { text, format } = event.data;
    // Of an ensemble one is seen at a time.
    const many = (text.match(/^MODEL\b/gm) ?? []).length > 1;
    const model = many ? viewer.addModelsAsFrames(text, format) : viewer.addModel(text, format);
    const atoms = model.selectedAtoms({}).length;
    const chain = model.selectedAtoms({ atom: "CA" }).length;
    const long = chain > 3;
    const balls = { stick: {}, sphere: { scale: 0.25 } }; // an atom without a bond is seen too
    if (long && chain === atoms) viewer.setStyle({}, { cartoon: { style: "trace", color: "spectrum" }, sphere: { scale: 0.15 } });
    else viewer.setStyle({}, atoms > FEW_ATOMS && long ? { cartoon: { color: "spectrum" } } : balls);
    if (long) viewer.setStyle({ hetflag: true }, balls);
    viewer.zoomTo();
    viewer.render();
    if (!still) turn(viewer);
    if (many) page(viewer);
    said.textContent = atoms === 0 ? "No atoms are in it." : `${atoms.toLocaleString("en")} atom${atoms === 1 ? "" : "s"}`;
  } catch (error) {
    said.textContent = `No model can be made of it: ${error.message}`;
  }
});

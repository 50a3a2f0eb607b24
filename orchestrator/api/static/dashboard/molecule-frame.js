// A turning model of the molecule that the page around hands over. This frame is in a sandbox: it may run our
// scripts and nothing else, and has no access to the page, its session or the server.
"use strict";

const FEW_ATOMS = 200; // ribbons say nothing of so few
const SLOWLY = 0.5;

window.addEventListener("message", (event) => {
  if (event.source !== window.parent) return;
  const said = document.getElementById("said");
  try {
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const viewer = window.$3Dmol.createViewer(document.getElementById("model"), { backgroundColor: dark ? "#1a2129" : "white" });
    const model = viewer.addModel(event.data.text, event.data.format);
    const atoms = model.selectedAtoms({}).length;
    const long = model.selectedAtoms({ atom: "CA" }).length > 3;
    const balls = { stick: {}, sphere: { scale: 0.25 } }; // an atom without a bond is seen too
    viewer.setStyle({}, atoms > FEW_ATOMS && long ? { cartoon: { color: "spectrum" } } : balls);
    if (long) viewer.setStyle({ hetflag: true }, balls);
    viewer.zoomTo();
    viewer.render();
    if (!still) viewer.spin("y", SLOWLY);
    said.textContent = atoms === 0 ? "No atoms are in it." : `${atoms.toLocaleString("en")} atom${atoms === 1 ? "" : "s"}`;
  } catch (error) {
    said.textContent = `No model can be made of it: ${error.message}`;
  }
});

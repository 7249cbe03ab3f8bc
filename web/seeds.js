// A new Solve keeps its seed: a restoration starts without noise, so that another seed would give the same picture again.
import { app } from "../../scripts/app.js";

app.registerExtension({
    name: "posterior.seeds",
    nodeCreated(node) {
        if (node.comfyClass !== "PosteriorSolve") return;
        const control = node.widgets?.find(({ name }) => name === "control_after_generate");
        if (control) control.value = "fixed"; // what a workflow has stored comes later
    },
});

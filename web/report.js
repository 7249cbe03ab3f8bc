// Shows on a node what it says: the text among its outputs. The server sends that of an output node even if it is cached.
import { app } from "../../scripts/app.js";

const NAME = "posterior_report"; // of the widget
const WIDTH = 7, LINE = 16, MARGIN = 6; // of a letter, of a line, around the text; in pixels
const STYLE = `
    box-sizing: border-box; padding: 4px 8px; overflow: auto; border-radius: 6px; user-select: text;
    white-space: pre-wrap; overflow-wrap: anywhere; font: 12px/${LINE}px sans-serif;
    color: var(--input-text); background: var(--comfy-input-bg);
`;

function widgetOf(node) {
    const found = node.widgets?.find(({ name }) => name === NAME);
    if (found) return found;
    const element = document.createElement("div");
    element.style.cssText = STYLE;
    const height = () => {
        const letters = (node.size[0] - 16 - 2 * MARGIN) / WIDTH;
        const lines = element.textContent.split("\n").map(line => Math.max(1, Math.ceil(line.length / letters)));
        return lines.reduce((sum, count) => sum + count, 0) * LINE + 10 + 2 * MARGIN;
    };
    const widget = node.addDOMWidget(NAME, "report", element, {
        getValue: () => element.textContent,
        setValue: text => (element.textContent = text),
        margin: MARGIN,
        getMinHeight: height,
        getMaxHeight: height,
        serialize: false, // no input of a prompt
    });
    widget.serialize = false; // nor a value that a workflow keeps
    return widget;
}

app.registerExtension({
    name: "posterior.report",
    beforeRegisterNodeDef(type, { name }) {
        if (!name.startsWith("Posterior")) return;
        const { onExecuted } = type.prototype;
        type.prototype.onExecuted = function (output) {
            onExecuted?.call(this, output);
            if (!output?.text?.length) return;
            widgetOf(this).value = output.text.join("\n");
            const [width, height] = this.computeSize();
            this.setSize([Math.max(this.size[0], width), Math.max(this.size[1], height)]);
            this.setDirtyCanvas(true, true);
        };
    },
});

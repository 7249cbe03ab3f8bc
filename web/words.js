// Puts the words of this pack back where a frontend loses them: with a language of its own, which it loads later than ours
// (Comfy-Org/ComfyUI_frontend issue 6748; mended there since). Such frontends share their vue with extensions.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

const OURS = "PosteriorSolve"; // a node whose name stands for all

app.registerExtension({
    name: "posterior.words",
    async init() {
        const vue = await import("vue").catch(() => null);
        const page = document.querySelector("#vue-app")?.__vue_app__;
        const i18n = page?._context.provides[page.__VUE_I18N_SYMBOL__]?.global;
        if (!vue || !i18n) return;
        const words = await (await api.fetchApi("/i18n")).json();
        for (const [language, said] of Object.entries(words)) {
            if (!said.nodeDefs?.[OURS]) continue;
            const restore = () => {
                if (!i18n.availableLocales.includes(language)) return; // not loaded so far
                if (!i18n.te(`nodeDefs.${OURS}.display_name`, language)) i18n.mergeLocaleMessage(language, said);
            };
            vue.watch(() => i18n.getLocaleMessage(language), restore, { immediate: true });
        }
    },
});

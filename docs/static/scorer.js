// What somebody looks for is a function before whatever else has its name, and a guide before a notebook.
var Scorer = {
  score: ([docname, title, anchor, descr, score]) => {
    const asked = (new URLSearchParams(window.location.search).get("q") || "").trim().toLowerCase();
    const wanted = asked.replace(/[^a-z0-9]+/g, "_").replace(/s$/, "");
    const name = title.split(".").pop().toLowerCase().replace(/s$/, "");
    const kind = { function: 200, class: 150, method: 100 }[(descr || "").split(" ")[1]?.replace(",", "")] || 0;
    if (name === wanted) score += kind;
    else if (name.startsWith(wanted + "_")) score += kind / 2;
    if (docname === "your_model") score += 30;
    if (docname.startsWith("notebooks/")) score -= 10;
    return score;
  },
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};

// The transcripts' filter: words in any order, and only problems whose verdict changed.
(() => {
  const form = document.querySelector(".filter");
  if (!form) return;
  const [words, changed] = form.querySelectorAll("input");
  const count = form.querySelector("output");
  const pairs = [...document.querySelectorAll(".pair")];
  const texts = pairs.map((pair) => pair.textContent.toLowerCase());
  const show = () => {
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    pairs.forEach((pair, i) => {
      const fits = wanted.every((word) => texts[i].includes(word));
      pair.hidden = !fits || (changed.checked && pair.dataset.changed !== "1");
      shown += !pair.hidden;
    });
    count.textContent = `${shown} of ${pairs.length} problems`;
  };
  form.addEventListener("input", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  show();
})();

// Comfort for quizzes: says aloud how it went and remembers the answers in this browser. Everything works without it.
document.addEventListener("DOMContentLoaded", () => {
  for (const quiz of document.querySelectorAll(".quiz")) {
    const options = [...quiz.querySelectorAll("details.option")];
    const tally = quiz.querySelector(".tally");
    const tried = () => options.filter((option) => option.dataset.tried);
    const say = () => {
      const wrong = tried().filter((option) => option.classList.contains("wrong")).length;
      const right = tried().some((option) => option.classList.contains("right"));
      if (!tried().length) tally.textContent = "";
      else if (right) tally.textContent = wrong ? `Answered, after ${wrong + 1} tries.` : "Answered at the first try.";
      else tally.textContent = "Not yet. Try another one.";
    };
    for (const option of options) {
      option.addEventListener("toggle", () => {
        if (option.open) option.dataset.tried = "yes";
        say();
      });
    }
  }
});

// What scrolls sideways can be reached and scrolled with the keyboard
const reachable = () => {
  for (const box of document.querySelectorAll(".scroll, .cell_output .output, .cell_output .output > div, .cell_output pre")) {
    if (box.scrollWidth > box.clientWidth && !box.hasAttribute("tabindex")) box.tabIndex = 0;
  }
};
window.addEventListener("load", reachable);
window.addEventListener("resize", reachable);

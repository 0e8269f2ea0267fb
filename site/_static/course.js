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

// What scrolls sideways can be reached and scrolled with the keyboard, and says so until its end is seen
const more = (box) => box.scrollWidth - box.clientWidth - box.scrollLeft > 8;
const cue = (box) => {
  const line = document.createElement("p");
  line.className = "sideways";
  line.textContent = "more to the right →";
  box.after(line);
  box.addEventListener("scroll", () => (line.hidden = !more(box)), { passive: true });
  return line;
};
const cues = new Map();
const reachable = () => {
  for (const box of document.querySelectorAll(".scroll, .cell_output .output, .cell_output .output > div, .cell_output pre")) {
    if (box.scrollWidth > box.clientWidth && !box.hasAttribute("tabindex")) box.tabIndex = 0;
    if (more(box) && !cues.has(box)) cues.set(box, cue(box));
    if (cues.has(box)) cues.get(box).hidden = !more(box);
  }
};
window.addEventListener("load", reachable);
window.addEventListener("resize", reachable);
document.addEventListener("toggle", reachable, true); // what a fold has hidden has no width before

document.addEventListener("DOMContentLoaded", () => {
  // A figure opens in its full size
  for (const picture of document.querySelectorAll(".cell_output img")) {
    const link = document.createElement("a");
    Object.assign(link, { href: picture.src, target: "_blank", title: "in full size" });
    picture.replaceWith(link);
    link.append(picture);
  }
  // Who only reads may fold the code away
  const links = document.querySelector(".lesson-bar .links");
  if (!links || !document.querySelector(".cell_input")) return;
  const button = document.createElement("button");
  const show = (hidden) => {
    document.body.classList.toggle("no-code", hidden);
    button.textContent = hidden ? "Show the code" : "Hide the code";
    button.setAttribute("aria-pressed", String(hidden));
  };
  button.addEventListener("click", () => show(!document.body.classList.contains("no-code")));
  show(false);
  links.append(button);
});

document.querySelector("form").addEventListener("submit", event => {
  event.preventDefault();
  const form = new FormData(event.target), names = [...new Set([...document.querySelectorAll("input[type=radio]")].map(i => i.name))];
  const quoted = text => '"' + String(text || "").replaceAll('"', '""') + '"';
  const text = ["participant", ...names].map(quoted).join(",") + "\n" + [form.get("participant"), ...names.map(n => form.get(n))].map(quoted).join(",") + "\n";
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], {type: "text/csv"})); link.download = document.title.toLowerCase().replaceAll(" ", "-") + ".csv"; link.click();
});

// Optuna's pages follow their own links without asking the server. Two of them lead elsewhere here:
// that to Optuna's list of studies to our list, and a study in Optuna's list to the study's note.
const LIST = /^\/dashboard\/?$/;
const STUDY = /^\/dashboard\/studies\/\d+$/;

function elsewhere(path) {
  if (LIST.test(path)) return "/studies";
  return LIST.test(location.pathname) && STUDY.test(path) ? `${path}/note` : null;
}

addEventListener("click", (event) => {
  const link = event.target.closest("#dashboard a[href]");
  const path = link && elsewhere(new URL(link.href).pathname);
  if (!path || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  event.stopPropagation();
  location.assign(path);
}, true);

// Ctrl+V anywhere on the photo's tab takes what is in the clipboard, in place of the photo before.
() => document.addEventListener("paste", ({clipboardData}) => {
  const input = document.querySelector("#photo input[type=file]");
  if (!input?.closest("#photo").offsetParent || !clipboardData?.files.length) return;
  input.files = clipboardData.files;
  input.dispatchEvent(new Event("change", {bubbles: true}));
})

// Ctrl+V anywhere on the photo's tab uploads the clipboard's file, as if it were dropped there.
() => document.addEventListener("paste", ({clipboardData}) => {
  const photo = document.querySelector("#photo"), [file] = clipboardData?.files ?? [];
  if (!file || !photo?.offsetParent) return;  // text, or another tab is in front
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(file);
  photo.querySelector("button.upload-container").dispatchEvent(new DragEvent("drop", {bubbles: true, dataTransfer}));
})

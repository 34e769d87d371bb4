// What is handier with scripts; everything works without them.
"use strict";

// A file that is chosen, or dropped there, goes into the text field that it is for, DER as PEM;
// nothing is uploaded but that text. Where the form can show what it holds, it does.
const textOf = async (file) => {
  const bytes = new Uint8Array(await file.arrayBuffer());
  if (bytes[0] !== 0x30) return file.text();
  const lines = btoa(String.fromCharCode(...bytes.subarray(0, 65536))).match(/.{1,64}/g);
  return ["-----BEGIN CERTIFICATE-----", ...lines, "-----END CERTIFICATE-----", ""].join("\n");
};
for (const input of document.querySelectorAll("input[type=file][data-into]")) {
  const field = document.getElementById(input.dataset.into);
  const take = async (file) => {
    if (!field || !file) return;
    field.value = await textOf(file);
    input.value = "";
    document.getElementById(input.dataset.then)?.click();
  };
  input.addEventListener("change", () => take(input.files[0]));
  field?.addEventListener("dragover", (event) => event.preventDefault());
  field?.addEventListener("drop", (event) => {
    if (!event.dataTransfer.files.length) return;
    event.preventDefault();
    take(event.dataTransfer.files[0]);
  });
}

// Errors are where the reader is.
document.getElementById("problems")?.focus();

// What is grave is not a button away, as long as its name is not typed.
for (const word of document.querySelectorAll("input[data-word]")) {
  const button = word.form.querySelector("button.danger");
  const check = () => { button.disabled = word.value.trim() !== word.dataset.word; };
  word.addEventListener("input", check);
  check();
}

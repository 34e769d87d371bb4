// What is handier with scripts; everything works without them.
"use strict";

// A file that is chosen goes into the text field that it is for; nothing is uploaded but that text.
for (const input of document.querySelectorAll("input[type=file][data-into]")) {
  input.addEventListener("change", async () => {
    const field = document.getElementById(input.dataset.into);
    if (field && input.files[0]) field.value = await input.files[0].text();
  });
}

// Errors are where the reader is.
document.getElementById("problems")?.focus();

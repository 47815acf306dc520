// Sends one request again and again with Node's own fetch, and prints what became of each: a status, or the code of the error.
// Arguments: a JSON object of url, method, headers, bytes, times, and multipart (whether the bytes are sent as a file of a form).
const { url, method, headers, bytes, times, multipart } = JSON.parse(process.argv[2]);
const outcomes = [];
for (let time = 0; time < times; time++) {
  const data = new Uint8Array(bytes).fill(120);
  let body = data;
  if (multipart) {
    body = new FormData();
    body.append("image", new Blob([data]), "picture.png");
  }
  try {
    const answer = await fetch(url, { method, headers, body });
    await answer.arrayBuffer();
    outcomes.push(answer.status);
  } catch (error) {
    outcomes.push(error.cause?.code ?? String(error));
  }
}
console.log(JSON.stringify(outcomes));

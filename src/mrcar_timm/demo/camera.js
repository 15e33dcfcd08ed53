// Shows the camera, sends frames to the page's process, two on their way at a time, and draws the faces that come back.
const video = element.querySelector("video"), canvas = element.querySelector("canvas");
const button = element.querySelector("button"), status = element.querySelector(".status");
const bars = element.querySelector(".bars");
const ON_THE_WAY = 2, WINDOW = 3000;  // milliseconds over which frames are counted
const grabbed = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
let stream = null, sent = 0, shown = -1, times = [];

function stop(text) {
  stream?.getTracks().forEach(track => track.stop());
  stream = video.srcObject = null;
  canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
  bars.replaceChildren();
  button.textContent = "Start the camera";
  status.textContent = text;
}

async function start() {
  if (!navigator.mediaDevices) return stop("This browser gives cameras only to https pages and to this machine itself.");
  button.disabled = true;
  try {
    stream = await navigator.mediaDevices.getUserMedia({video: {width: {ideal: 640}, height: {ideal: 480}}});
  } catch (error) {
    button.disabled = false;
    return stop(`No camera: ${error.message}`);
  }
  button.disabled = false;
  button.textContent = "Stop the camera";
  status.textContent = "Starting …";
  video.srcObject = stream;
  await video.play();
  for (const each of [canvas, grabbed.canvas]) [each.width, each.height] = [video.videoWidth, video.videoHeight];
  [sent, shown, times] = [0, -1, []];
  const own = stream;
  for (let k = 0; k < ON_THE_WAY; k++) send(own);
}

async function send(own) {
  while (stream === own && element.isConnected) {
    if (document.hidden || !canvas.offsetParent) {  // another tab is in front
      await new Promise(done => setTimeout(done, 200));
      continue;
    }
    const number = sent++;
    grabbed.drawImage(video, 0, 0);
    const time = performance.now() / 1000;
    const image = grabbed.canvas.toDataURL("image/jpeg", 0.85);
    let reply;
    try {
      reply = await server.follow_frame({visitor: props.visitor, image, time});
    } catch (error) {}
    reply ??= {error: "The server does not answer."};
    if (stream !== own) return;
    if (reply.error) return stop(reply.error);
    const now = performance.now();
    times = [...times.filter(t => now - t < WINDOW), now];
    const rate = 1000 * (times.length - 1) / Math.max(1, now - times[0]);
    status.textContent = `${rate.toFixed(1)} frames a second`;
    status.dataset.rate = rate;
    if (number > shown && !reply.late) {
      shown = number;
      draw(reply.faces);
    }
  }
  if (stream === own) stop("");
}

function draw(faces) {
  const g = canvas.getContext("2d"), mirrored = x => canvas.width - x;
  g.clearRect(0, 0, canvas.width, canvas.height);
  g.font = "16px sans-serif";
  for (const face of faces) {
    const [x1, y1, x2, y2] = face.box, left = mirrored(x2);
    g.strokeStyle = "white";
    g.lineWidth = 2;
    g.strokeRect(left, y1, x2 - x1, y2 - y1);
    g.fillStyle = "white";
    for (const [x, y] of face.landmarks) g.fillRect(mirrored(x) - 2, y - 2, 4, 4);
    const text = `${face.number} ${face.expression} ${Math.round(100 * face.probability)}%`;
    g.fillStyle = "black";
    g.fillRect(left, y1 - 22, g.measureText(text).width + 8, 22);
    g.fillStyle = "white";
    g.fillText(text, left + 4, y1 - 6);
  }
  const area = ({box: [x1, y1, x2, y2]}) => (x2 - x1) * (y2 - y1);
  const largest = faces.toSorted((a, b) => area(b) - area(a))[0];
  bars.replaceChildren(...Object.entries(largest?.probabilities ?? {}).map(([name, probability]) => {
    const row = document.createElement("div"), label = document.createElement("span"), bar = document.createElement("i");
    label.textContent = name;
    bar.style.width = `${100 * probability}%`;
    row.append(label, bar);
    return row;
  }));
}

button.addEventListener("click", () => stream ? stop("") : start());

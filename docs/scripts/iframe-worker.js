// Lets the search work when the site is opened as a file: browsers start no worker from a file. The search's worker
// runs in a hidden frame instead. The theme's own shim would be loaded from the network.
if (location.protocol === "file:") {
  class IFrameWorker extends EventTarget {
    constructor(url) {
      super();
      this.waiting = [];
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.append(this.frame);
      const inner = this.frame.contentWindow;
      inner.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      inner.importScripts = (...urls) =>
        urls.reduce((before, source) => before.then(() => load(inner.document, source)), Promise.resolve());
      load(inner.document, url).then(() => {
        const waiting = this.waiting;
        this.waiting = null;
        waiting.forEach((data) => this.postMessage(data));
      });
    }

    postMessage(data) {
      if (this.waiting) this.waiting.push(data);
      else this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data }));
    }

    terminate() {
      this.frame.remove();
    }
  }

  function load(target, source) {
    return new Promise((resolve, reject) => {
      const script = target.createElement("script");
      script.src = source;
      script.onload = resolve;
      script.onerror = reject;
      target.body.append(script);
    });
  }

  // The search's worker looks for the first name.
  window.IFrameWorker = IFrameWorker;
  window.Worker = IFrameWorker;
}

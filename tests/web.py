#!/usr/bin/env python3
"""web.py BROWSER PAGE [PICTURE]: examples/web in a headless Chromium, by its DevTools protocol over pipes. It
draws digits with mouse and finger, lets the net learn, saves and loads. PICTURE: where to put pictures.
Prints what failed, then `N passed, N failed`."""
import base64, json, os, subprocess, sys, tempfile, time

passed = failed = 0


def check(ok, what):
    global passed, failed
    passed, failed = passed + bool(ok), failed + (not ok)
    if not ok:
        print("    FAILED:", what)


def curve(points, n):
    """A smooth line through the points (Catmull, Rom 1974), n steps between two."""
    all = [points[0]] + points + [points[-1]]
    for a, b, c, d in zip(all, all[1:], all[2:], all[3:]):
        for t in (k / n for k in range(1, n + 1)):
            yield tuple(q + t * (r - p + t * (2 * p - 5 * q + 4 * r - s + t * (3 * (q - r) + s - p))) / 2
                        for p, q, r, s in zip(a, b, c, d))


class Browser:
    """Messages are JSON, each ended by a zero byte: to the browser's file 3, from its file 4."""

    def __init__(self, path, profile, url):
        to_read, self.to = os.pipe()
        self.back, back_write = os.pipe()
        os.set_inheritable(to_read, True), os.set_inheritable(back_write, True)
        self.process = subprocess.Popen(
            ["sh", "-c", f'exec 3<&{to_read} 4>&{back_write}; exec "$@"', "sh", path, "--headless=new",
             "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe",
             f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(to_read, back_write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(to_read), os.close(back_write)
        self.number, self.session, self.rest, self.events = 0, None, b"", []
        targets = self.call("Target.getTargets")["targetInfos"]
        page = [t for t in targets if t["type"] == "page"][0]["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        self.call("Runtime.enable"), self.call("Page.enable")
        self.call("Page.navigate", url=url)

    def call(self, method, **params):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.rest:
                more = os.read(self.back, 1 << 20)
                if not more:
                    raise RuntimeError("the browser has gone")
                self.rest += more
            line, self.rest = self.rest.split(b"\0", 1)
            answer = json.loads(line)
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(method + ": " + answer["error"]["message"])
                return answer["result"]
            self.events.append(answer)

    def js(self, code):
        r = self.call("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in r:
            raise RuntimeError(json.dumps(r["exceptionDetails"])[:400])
        return r["result"].get("value")

    def text(self, id):
        return self.js(f"document.getElementById('{id}').textContent")

    def wait(self, condition, seconds):
        end = time.time() + seconds
        while time.time() < end:
            if self.js(condition):
                return True
            time.sleep(0.1)
        return False

    def click(self, id):
        self.js(f"document.getElementById('{id}').click()")

    def size(self, width, height, scale=1, mobile=False):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale,
                  mobile=mobile)

    def draw(self, strokes, finger=False):
        """Lines in a square of 0..1, as a person draws them: events of the mouse, or of a finger."""
        self.click("clear")
        x, y, w = self.js("""(e => (e.scrollIntoView({ block: 'center' }), e = e.getBoundingClientRect(),
                             [e.left, e.top, e.width]))(document.getElementById('draw'))""")
        for stroke in strokes:
            points = [(x + w * a, y + w * b) for a, b in stroke]
            moves = list(curve(points, 8))
            if finger:
                self.touch("touchStart", points[:1])
                for at in moves:
                    self.touch("touchMove", [at])
                self.touch("touchEnd", [])
            else:
                self.mouse("mousePressed", points[0])
                for at in moves:
                    self.mouse("mouseMoved", at)
                self.mouse("mouseReleased", points[-1])
        self.js("new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))")
        return self.text("answer")

    def press(self, strokes):
        """The first half of a digit's first stroke, the button still down; release: the other half."""
        self.click("clear")
        x, y, w = self.js("""(e => (e = e.getBoundingClientRect(), [e.left, e.top, e.width]))(
                             document.getElementById('draw'))""")
        self.rest_of = [(x + w * a, y + w * b) for a, b in curve(strokes[0], 8)]
        self.mouse("mousePressed", self.rest_of[0])
        for at in self.rest_of[:len(self.rest_of) // 2]:
            self.mouse("mouseMoved", at)
        self.js("new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))")

    def release(self):
        for at in self.rest_of[len(self.rest_of) // 2:]:
            self.mouse("mouseMoved", at)
        self.js("new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))")
        self.mouse("mouseReleased", self.rest_of[-1])

    def touch(self, kind, points):
        self.call("Input.dispatchTouchEvent", type=kind, touchPoints=[{"x": a, "y": b} for a, b in points])

    def mouse(self, kind, at):
        self.call("Input.dispatchMouseEvent", type=kind, x=at[0], y=at[1], button="left", buttons=1,
                  clickCount=1)


DIGITS = {
    "0": [[(.5, .18), (.36, .24), (.28, .4), (.28, .6), (.36, .76), (.5, .82), (.64, .76), (.72, .6),
           (.72, .4), (.64, .24), (.5, .18)]],
    "1": [[(.53, .15), (.5, .5), (.47, .85)]],
    "2": [[(.3, .32), (.38, .2), (.52, .16), (.66, .22), (.7, .34), (.62, .5), (.45, .66), (.3, .8), (.5, .8),
           (.74, .79)]],
    "3": [[(.3, .22), (.45, .16), (.62, .2), (.68, .32), (.6, .44), (.46, .48), (.62, .54), (.7, .66),
           (.62, .8), (.45, .85), (.28, .78)]],
    "4": [[(.34, .16), (.28, .5), (.5, .52), (.72, .48)], [(.66, .16), (.62, .5), (.58, .86)]],
    "7": [[(.26, .2), (.5, .19), (.72, .18), (.6, .4), (.5, .62), (.44, .86)]],
}


def take_pictures(b, path):
    """The page as it is, at PATH; dark, and on a phone from top to bottom, beside it."""
    b.draw(DIGITS["3"])
    b.call("Emulation.setScrollbarsHidden", hidden=True)
    for name, dark, width, height, top in [("", 0, 1150, 1010, 0), ("-low", 0, 1150, 1010, 1010),
                                           ("-dark", 1, 1150, 1010, 0), ("-phone1", 0, 400, 860, 0),
                                           ("-phone2", 0, 400, 860, 860), ("-phone3", 1, 400, 860, 1720)]:
        b.size(width, height)
        b.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme",
                                                        "value": "dark" if dark else "light"}])
        b.js(f"scrollTo(0, {top}); new Promise(r => setTimeout(r, 400))")
        with open(path.replace(".png", name + ".png"), "wb") as f:
            f.write(base64.b64decode(b.call("Page.captureScreenshot", format="png")["data"]))
    b.call("Emulation.setEmulatedMedia", features=[])
    b.size(1180, 900)


def run(browser, picture):
    b = browser
    b.size(1180, 900)
    check(b.wait("document.readyState == 'complete' && !document.getElementById('learn').disabled", 60),
          "the page does not start: " + b.text("message"))
    check(b.js("document.documentElement.scrollWidth <= innerWidth"), "the page is wider than its window")
    b.draw(DIGITS["3"])
    check("guess" in b.text("says"), "before learning it does not say that it guesses")
    filters = "document.querySelectorAll('.maps canvas')[0].toDataURL()"
    maps = """[...document.querySelectorAll('#layers .maps')].map(
        row => [...row.querySelectorAll('canvas')].map(c => c.toDataURL()).join())"""
    before, maps_before, bars_before = b.js(filters), b.js(maps), b.text("bars")
    check(len(maps_before) == 6, f"{len(maps_before)} layers are shown, not 6 and the probabilities")
    b.draw(DIGITS["7"])
    same = [i for i, (old, new) in enumerate(zip(maps_before, b.js(maps))) if old == new]
    check(not same, f"the maps of layers {same} do not follow the drawing")
    check(b.text("bars") != bars_before and b.js("document.querySelectorAll('#bars span').length") == 10,
          "the ten probabilities do not follow the drawing")
    b.press(DIGITS["3"])
    halfway = b.js(maps)
    b.release()
    check(all(old != new for old, new in zip(halfway, b.js(maps))), "the maps do not change while one draws")

    b.click("learn")
    check(b.wait("+document.getElementById('epoch').textContent >= 1", 120), "an epoch takes too long")
    accuracy = float(b.text("accuracy").split()[0])
    check(accuracy >= 90, f"after one epoch {accuracy} % of the test digits are right")
    check(b.js(filters) != before, "the filters do not change")
    check(0 < float(b.text("loss")) < 1, "the loss is " + b.text("loss"))
    gaps = b.js("""new Promise(done => { let last = performance.now(), most = [];
        const tick = now => { most.push(now - last), last = now;
            most.length < 30 ? requestAnimationFrame(tick) : done(most.sort((a, b) => a - b)[20]); };
        requestAnimationFrame(tick); })""")
    check(gaps < 250, f"while it learns, a frame takes {gaps:.0f} ms")
    b.wait("+document.getElementById('epoch').textContent >= 5", 240)
    b.click("learn")
    print(f"    {accuracy} % after 1, {b.text('accuracy')} after {b.text('epoch')}; frame {gaps:.0f} ms")

    right = sum(b.draw(strokes) == digit for digit, strokes in DIGITS.items())
    check(right == len(DIGITS), f"{right} of {len(DIGITS)} digits that the mouse drew are read")
    sums = b.js("[...document.querySelectorAll('#bars span')].reduce((s, e) => s + parseInt(e.innerText), 0)")
    check(95 <= sums <= 105, f"the probabilities add up to {sums} %")

    if picture:
        take_pictures(b, picture)

    # Save, forget, load: the same accuracy again; a file that is none is refused, in words.
    b.js("""URL.createObjectURL = blob => { window.saved = blob; return '#'; };
            HTMLAnchorElement.prototype.click = () => {}""")
    b.click("save")
    good = b.text("accuracy")
    check(b.js("saved.slice(8, 9).text()") == "{", "what is saved is no safetensors file")
    b.click("forget")
    check(float(b.text("accuracy").split()[0]) < 50, "it does not forget")
    load = """(name, parts) => { const t = new DataTransfer(), e = document.getElementById('load');
        t.items.add(new File(parts, name)), e.files = t.files; return e.onchange({ target: e }); }"""
    b.js(f"({load})('lenet.safetensors', [saved])")
    check(b.text("accuracy") == good, f"loaded, {b.text('accuracy')} are right, not {good}")
    b.js(f"({load})('nonsense', ['nonsense'])")
    check(len(b.text("message")) > 10 and b.text("accuracy") == good, "a file that is none is not refused")

    b.size(400, 860, 2, True)
    b.call("Emulation.setTouchEmulationEnabled", enabled=True)
    check(b.js("document.documentElement.scrollWidth <= 400"), "the page is wider than a phone")
    check(b.draw(DIGITS["0"], finger=True) == "0", "the finger's 0 is read as " + b.text("answer"))
    errors = [e for e in b.events if e.get("method") == "Runtime.exceptionThrown"]
    check(not errors, "exceptions: " + json.dumps(errors)[:600])


with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
    browser = None
    try:
        browser = Browser(sys.argv[1], profile, "file://" + os.path.abspath(sys.argv[2]))
        run(browser, sys.argv[3] if len(sys.argv) > 3 else None)
    except Exception as e:
        check(False, f"{type(e).__name__}: {e}")
    finally:
        if browser:
            browser.process.kill(), browser.process.wait()
print(f"{passed} passed, {failed} failed")
sys.exit(failed > 0)

// Says what is missing where the page's modules cannot even begin: so a plain old script, which runs everywhere.
(function () {
  'use strict';
  function tell(text) {
    var place = document.getElementById('trouble');
    place.textContent = text;
    place.hidden = false;
    document.getElementById('status').textContent = 'This page cannot work here.';
  }
  // A SIMD instruction: what onnxruntime-web is made of.
  var SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];
  function missing() {
    if (location.protocol === 'file:') {
      return 'Browsers do not run such a page from a file. Serve its folder, for example with "python3 -m http.server" in it, and open http://localhost:8000/.';
    }
    if (!('noModule' in document.createElement('script')) || typeof BigInt === 'undefined' || typeof Worker === 'undefined') {
      return 'This browser is too old for this page: it has no modules, workers or large whole numbers.';
    }
    if (typeof WebAssembly === 'undefined') {
      return 'This browser has no WebAssembly, or it is switched off (as by a "lockdown" or "strict" mode), so it cannot run the generator.';
    }
    if (!WebAssembly.validate(new Uint8Array(SIMD))) {
      return 'The WebAssembly of this browser or processor has no SIMD instructions, without which onnxruntime-web does not run.';
    }
    return null;
  }
  addEventListener('DOMContentLoaded', function () {
    var what = missing();
    if (what) tell(what);
  });
  // A script of the page that does not come: the folder was copied in part.
  addEventListener('error', function (event) {
    if (event.target && event.target.tagName === 'SCRIPT') {
      addEventListener('DOMContentLoaded', function () {
        tell(missing() || 'The file ' + event.target.getAttribute('src') + ' of this page cannot be loaded: copy its whole folder to the server.');
      });
    }
  }, true);
})();

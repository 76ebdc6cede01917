/**
 * Sound on the wire of /v1/realtime: 16-bit little-endian mono at 24 kHz, in base64. Pure.
 *
 * Typed arrays have the byte order of the machine, which is little-endian wherever browsers run.
 */

/** Samples per second, both ways. */
export const RATE = 24000;

/** As many arguments as String.fromCharCode takes everywhere. */
const SPREAD = 0x8000;

/**
 * @param {Float32Array} samples from -1 to 1; what is beyond is clipped
 * @returns {Int16Array}
 */
export function toInt16(samples) {
  const pcm = new Int16Array(samples.length);
  for (let i = 0; i < samples.length; i++) {
    pcm[i] = Math.max(-32768, Math.min(32767, Math.round(samples[i] * 32768)));
  }
  return pcm;
}

/**
 * @param {Int16Array} pcm
 * @returns {Float32Array} from -1 to 1
 */
export function toFloat32(pcm) {
  const samples = new Float32Array(pcm.length);
  for (let i = 0; i < pcm.length; i++) samples[i] = pcm[i] / 32768;
  return samples;
}

/**
 * @param {Int16Array} pcm
 * @returns {string} base64
 */
export function encode(pcm) {
  const bytes = new Uint8Array(pcm.buffer, pcm.byteOffset, pcm.byteLength);
  let binary = "";
  for (let at = 0; at < bytes.length; at += SPREAD) {
    binary += String.fromCharCode(...bytes.subarray(at, at + SPREAD));
  }
  return btoa(binary);
}

/**
 * @param {string} text base64 of whole samples; half a sample at the end is dropped
 * @returns {Int16Array}
 */
export function decode(text) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length & ~1);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  return new Int16Array(bytes.buffer);
}

/**
 * @param {Float32Array} samples
 * @returns {number} their root mean square, from 0 to 1
 */
export function level(samples) {
  let sum = 0;
  for (const sample of samples) sum += sample * sample;
  return samples.length ? Math.sqrt(sum / samples.length) : 0;
}

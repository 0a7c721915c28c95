/**
 * Files from elsewhere: downloads that resume, retry, check what they got and heed proxies, and
 * Hugging Face's hub with the cache that Python's clients share. What is in a file belongs in
 * {@code io} and above; nothing else in Halve goes to the network.
 */
package dev.halve.core.download;

"""Words under which people look for a node, for hosts that know search aliases (after 0.3.75)."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from comfy_api.latest import io

ALIASES = {
    "PosteriorSolve": "repair, restore, restoration, fix photo, old photo, photo restoration, enhance, solver, inverse",
    "PosteriorDamagedPhoto": "old photo, demo, example image",
    "PosteriorObserve": "damaged photo, old photo, load damaged, measurement",
    "PosteriorKeepMeasuredPixels": "composite, paste back, keep original, blend, seam",
    "PosteriorEstimateNoise": "grain, noise level, how noisy, sigma",
    "PosteriorEstimateBlur": "blur detection, sharpness, which blur, deblur, unblur, focus, point spread function, PSF",
    "PosteriorEstimateShake": "camera shake, blind deconvolution, unknown blur, estimate kernel, deblur, point spread function, PSF",
    "PosteriorFindTrueSize": "upscaled, enlarged, resized, fake resolution, original size, undo upscale, resampling detection",
    "PosteriorFindScratches": "scratch detection, dust removal, find dust, automatic mask, watermark, text",
    "PosteriorDiagnose": "unknown damage, what is wrong, detect damage, automatic, old photo, repair, restore, auto levels",
    "PosteriorEstimateJPEG": "jpeg artifacts, jpeg quality, quantisation table, screenshot, which quality",
    "PosteriorIdentity": "denoise, remove noise, remove grain, noise reduction, high iso",
    "PosteriorInpainting": "scratch, remove scratches, remove text, remove watermark, remove object, dust, crack, mask, fill",
    "PosteriorRandomPixels": "dead pixels, missing pixels, dropout",
    "PosteriorTiledModel": "large photo, high resolution, tile, tiles, window, megapixel, multidiffusion, memory",
    "PosteriorOutpainting": "uncrop, extend, expand, wider",
    "PosteriorMosaic": "demosaic, raw, bayer, debayer",
    "PosteriorGaussianBlur": "deblur, unblur, sharpen, out of focus, soft photo",
    "PosteriorMotionBlur": "deblur, unblur, sharpen, camera shake, moved, smear",
    "PosteriorCameraShake": "deblur, unblur, sharpen, moved, blurry",
    "PosteriorDefocus": "deblur, unblur, sharpen, out of focus, bokeh, lens blur",
    "PosteriorKernelBlur": "deblur, deconvolution, point spread function, PSF",
    "PosteriorVaryingBlur": "deblur, deconvolution, lens corner, PSF",
    "PosteriorSuperResolution": "upscale, enlarge, super resolution, bigger, higher resolution",
    "PosteriorUpscaleTo": "upscale, enlarge, super resolution, bigger, higher resolution, resize",
    "PosteriorGrayscale": "colorize, colourise, black and white, old photo, grey to colour",
    "PosteriorJPEG": "jpeg artifacts, deblock, remove compression, compression artifacts, blocks",
    "PosteriorReadJPEG": "jpeg artifacts, quantisation table, deblock, compression artifacts",
    "PosteriorFewerColours": "banding, deband, bit depth, posterize",
    "PosteriorPalette": "gif, dither, undither, banding, indexed",
    "PosteriorOverexposure": "blown highlights, clipped, hdr, declip",
    "PosteriorGamma": "brightness, contrast, dark photo",
    "PosteriorScale": "dark photo, underexposed, brightness, faded",
    "PosteriorLevels": "faded photo, fading, exposure, colour cast, color cast, brightness, contrast, levels",
    "PosteriorBlindSampler": "blind deconvolution, unknown blur, deblur, estimate kernel, camera shake, GibbsDDRM, BlindDPS",
    "PosteriorFoundDamage": "blur kernel, point spread function, estimate blur, parameters",
    "PosteriorMeasurementFit": "check result, quality, residual, evaluate",
    "PosteriorHowLikely": "log-likelihood, bits per dimension, ELBO, probability, compare pictures, score prior",
    "PosteriorApplyGuidance": "patch model, ksampler, guide",
    "PosteriorAutoGuidance": "automatic, choose method, DPS, DDNM, DiffPIR",
}
_KNOWN = "search_aliases" in {field.name for field in fields(io.Schema)}


def found_by(node_id: str) -> dict[str, Any]:
    """What `io.Schema` takes for it, where the host's takes anything."""
    return {"search_aliases": ALIASES[node_id].split(", ")} if _KNOWN and node_id in ALIASES else {}

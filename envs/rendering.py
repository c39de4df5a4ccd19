"""A MuJoCo renderer that works without a screen: EGL first, then OSMesa, else an error that names the packages."""

from __future__ import annotations

import atexit
import importlib
import os
import weakref

import mujoco
import numpy as np
from mujoco.rendering.classic import gl_context
from numpy.typing import NDArray

from latent_mpc.types import LatentMPCError

GL_PACKAGES = "libegl1 libegl-mesa0 libgl1-mesa-dri libosmesa6"


class NoOpenGLError(LatentMPCError, RuntimeError):
    """No OpenGL backend could make an offscreen context."""


def _select_backend() -> None:
    """Point MuJoCo's renderer at the first backend that can make a context; MUJOCO_GL, when set, wins.

    MuJoCo reads MUJOCO_GL while it is imported and falls back to GLFW, which needs a screen. Setting the
    variable from inside a library would be too late and would act on import, so the class is chosen here.
    """
    failures = []
    for name in ("egl", "osmesa"):
        try:
            backend = importlib.import_module(f"mujoco.{name}").GLContext
            backend(16, 16).free()
        except Exception as error:  # PyOpenGL raises ImportError, AttributeError, GLError … by platform
            failures.append(f"{name}: {type(error).__name__}: {error}")
        else:
            gl_context.GLContext = backend
            return
    raise NoOpenGLError(
        "no OpenGL for offscreen rendering (" + "; ".join(failures) + "). On Debian or Ubuntu type: "
        f"sudo apt-get install {GL_PACKAGES}"
    )


class OffscreenRenderer(mujoco.Renderer):
    """MuJoCo's, but that closing one leaves the others alone."""

    def close(self) -> None:
        """Free what this renderer has on the graphics card; may be called twice."""
        if self._gl_context and self._mjr_context:  # its names mean other renderers' things in their contexts
            self._gl_context.make_current()
        super().close()


def make_renderer(model: mujoco.MjModel, height: int, width: int) -> mujoco.Renderer:
    """Return an offscreen renderer without shadows, reflections and skybox (ten times faster in software).

    Raises:
        NoOpenGLError: neither EGL nor OSMesa works; the message has the line that installs them.
    """
    if not os.environ.get("MUJOCO_GL") and not getattr(gl_context, "_latent_mpc_selected", False):
        _select_backend()
        gl_context._latent_mpc_selected = True
    model.vis.global_.offwidth, model.vis.global_.offheight = width, height
    model.vis.quality.offsamples = 0
    model.vis.quality.shadowsize = 0
    try:
        renderer = OffscreenRenderer(model, height, width)
    except Exception as error:
        raise NoOpenGLError(
            f"OpenGL backend {os.environ.get('MUJOCO_GL') or 'auto'!r} failed: {error}. On Debian or Ubuntu type: "
            f"sudo apt-get install {GL_PACKAGES}; or unset MUJOCO_GL to let the backend be chosen"
        ) from error
    atexit.register(_close, weakref.ref(renderer))
    for flag in (
        mujoco.mjtRndFlag.mjRND_SHADOW,
        mujoco.mjtRndFlag.mjRND_REFLECTION,
        mujoco.mjtRndFlag.mjRND_SKYBOX,
    ):
        renderer.scene.flags[flag] = False
    return renderer


def render(renderer: mujoco.Renderer, data: mujoco.MjData, camera: str, supersample: int) -> NDArray[np.uint8]:
    """An image uint8 (height, width, 3), averaged over blocks of `supersample` pixels of the renderer's own size."""
    renderer.update_scene(data, camera=camera)
    fine = renderer.render().astype(np.uint16)
    rows = sum(fine[i::supersample] for i in range(supersample))  # six times faster than a reduction over axes
    blocks = sum(rows[:, i::supersample] for i in range(supersample))
    return (blocks // supersample**2).astype(np.uint8)


def _close(renderer: weakref.ref[mujoco.Renderer]) -> None:
    """Close a renderer that its owner left open: at exit OpenGL goes first, and closing then prints a traceback."""
    if (left := renderer()) is not None:
        left.close()

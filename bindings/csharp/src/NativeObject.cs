// SPDX-License-Identifier: Apache-2.0
using System;
using System.Runtime.InteropServices;

namespace Polyad
{
    /// <summary>One reference to an object of the library. Released once, by Dispose or by the finalizer.</summary>
    internal sealed class NativeHandle : SafeHandle
    {
        private readonly Action<IntPtr> release;

        internal NativeHandle(IntPtr handle, Action<IntPtr> release) : base(IntPtr.Zero, true)
        {
            this.release = release;
            SetHandle(handle);
        }

        public override bool IsInvalid => handle == IntPtr.Zero;

        // A SafeHandle goes on taking references while calls overlap; what was disposed of has to refuse them at once.
        private volatile bool refusing;

        internal bool IsRefusing => refusing || IsClosed;

        /// <summary>No call begins any more; the object is released when the last one that has begun is over.</summary>
        internal void Refuse()
        {
            refusing = true;
            Dispose();
        }

        protected override bool ReleaseHandle()
        {
            release(handle);
            return true;
        }
    }

    /// <summary>
    /// An object of the library and this object's one reference to it. Disposing is the rule, the finalizer the net. An object that was
    /// disposed of refuses every call with <see cref="ObjectDisposedException"/>; disposing twice, in any order, and while another
    /// thread is inside a call is safe: a call that has begun keeps what it needs.
    /// </summary>
    public abstract class NativeObject : IDisposable
    {
        internal delegate void Creation(out IntPtr made);

        internal delegate void TextCall(IntPtr handle, out IntPtr text);

        internal NativeObject(NativeHandle handle)
        {
            Handle = handle;
        }

        internal NativeHandle Handle { get; }

        /// <summary>Whether <see cref="Dispose"/> was called.</summary>
        public bool IsDisposed => Handle.IsRefusing;

        /// <summary>Runs a call that makes an object and takes the reference it gives.</summary>
        internal static NativeHandle Make(Action<IntPtr> release, Creation call)
        {
            call(out IntPtr made);
            return new NativeHandle(made, release);
        }

        /// <summary>A call with the handle, which stays valid until it returns.</summary>
        internal T Use<T>(Func<IntPtr, T> call)
        {
            bool held = false;
            ProcessEnd.Enter();
            try
            {
                if (Handle.IsRefusing) throw new ObjectDisposedException(GetType().FullName);
                try
                {
                    Handle.DangerousAddRef(ref held);
                }
                catch (ObjectDisposedException) // since the look above
                {
                    throw new ObjectDisposedException(GetType().FullName);
                }
                return call(Handle.DangerousGetHandle());
            }
            finally
            {
                if (held) Handle.DangerousRelease();
                ProcessEnd.Leave();
            }
        }

        internal void Use(Action<IntPtr> call) => Use(handle =>
        {
            call(handle);
            return true;
        });

        /// <summary>A call with the handle of an object that may be null, which is 0.</summary>
        internal static T UseOrNull<T>(NativeObject some, Func<IntPtr, T> call) => some == null ? call(IntPtr.Zero) : some.Use(call);

        internal string Text(TextCall call) => Use(handle =>
        {
            call(handle, out IntPtr text);
            return Utf8.Take(text);
        });

        internal Json AskJson(TextCall call) => Json.Parse(Text(call));

        /// <summary>Gives the library's object back; what was made from it keeps working. Disposing again does nothing.</summary>
        public void Dispose()
        {
            Ending();
            Handle.Refuse();
        }

        /// <summary>What has to end before the handle goes.</summary>
        internal virtual void Ending()
        {
        }

        internal static T NotNull<T>(T value, string name) where T : class => value ?? throw new ArgumentNullException(name);
    }
}

// SPDX-License-Identifier: Apache-2.0
using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.Linq;
using System.Reflection;
using System.Runtime.ExceptionServices;
using System.Threading;
using System.Threading.Tasks;

namespace Polyad.Tests
{
    /// <summary>Thrown by a test that cannot run here, with the reason.</summary>
    internal sealed class SkipException : Exception
    {
        internal SkipException(string reason) : base(reason)
        {
        }
    }

    internal sealed class CheckException : Exception
    {
        internal CheckException(string what) : base(what)
        {
        }
    }

    /// <summary>
    /// Runs every public method of every class named *Tests and reports each; a class is made anew for each test and disposed of after
    /// it. NUnit of Debian runs on Mono only, and a registry is not to be asked, so this is all there is.
    /// </summary>
    internal static class Runner
    {
        private static readonly TimeSpan Longest = TimeSpan.FromMinutes(10);

        private static int Main(string[] arguments)
        {
            if (arguments.Length > 0 && arguments[0] == "--probe") return Probe.Run(arguments.Skip(1).ToArray());
            Console.WriteLine("runtime: " + System.Runtime.InteropServices.RuntimeInformation.FrameworkDescription);
            int passed = 0, failed = 0, skipped = 0;
            foreach (Type suite in Assembly.GetExecutingAssembly().GetTypes().Where(t => t.Name.EndsWith("Tests")).OrderBy(t => t.Name))
            {
                const BindingFlags own = BindingFlags.Public | BindingFlags.Instance | BindingFlags.DeclaredOnly;
                foreach (MethodInfo test in suite.GetMethods(own).Where(m => m.Name != "Dispose").OrderBy(m => m.MetadataToken))
                {
                    string name = suite.Name + "." + test.Name;
                    if (arguments.Length > 0 && !arguments.Any(name.Contains)) continue;
                    var watch = Stopwatch.StartNew();
                    try
                    {
                        RunOne(suite, test);
                        Console.WriteLine($"ok      {name} ({watch.ElapsedMilliseconds} ms)");
                        ++passed;
                    }
                    catch (SkipException e)
                    {
                        Console.WriteLine($"skipped {name}: {e.Message}");
                        ++skipped;
                    }
                    catch (Exception e)
                    {
                        Console.WriteLine($"FAILED  {name}: {e}");
                        ++failed;
                    }
                }
            }
            Console.WriteLine($"{GC.CollectionCount(0)} collections");
            Console.WriteLine($"{passed} passed, {failed} failed, {skipped} skipped");
            if (passed + failed + skipped == 0) Console.WriteLine("no test has such a name");
            return failed > 0 || passed + skipped == 0 ? 1 : passed == 0 ? 77 : 0;
        }

        /// <summary>On a thread of its own, so that a test that hangs fails by its name.</summary>
        private static void RunOne(Type suite, MethodInfo test)
        {
            Exception thrown = null;
            var thread = new Thread(() =>
            {
                try
                {
                    object instance = Activator.CreateInstance(suite);
                    using (instance as IDisposable)
                    {
                        (test.Invoke(instance, null) as Task)?.GetAwaiter().GetResult();
                    }
                }
                catch (TargetInvocationException e)
                {
                    thrown = e.InnerException;
                }
                catch (Exception e)
                {
                    thrown = e;
                }
            })
            {
                IsBackground = true,
            };
            thread.Start();
            if (!thread.Join(Longest))
            {
                Console.WriteLine($"FAILED  {suite.Name}.{test.Name}: still running after {Longest}");
                Console.Out.Flush();
                Process.GetCurrentProcess().Kill(); // nothing after it would mean anything
            }
            if (thrown != null) ExceptionDispatchInfo.Capture(thrown).Throw();
        }
    }

    internal static class Check
    {
        internal static void That(bool right, string what = "")
        {
            if (!right) throw new CheckException("not so: " + what);
        }

        internal static void Equal<T>(T expected, T actual, string what = "")
        {
            if (!EqualityComparer<T>.Default.Equals(expected, actual)) throw new CheckException($"{what} expected {expected}, got {actual}");
        }

        internal static void Same<T>(IEnumerable<T> expected, IEnumerable<T> actual, string what = "")
        {
            T[] a = expected.ToArray(), b = actual.ToArray();
            if (!a.SequenceEqual(b)) throw new CheckException($"{what}: {a.Length} and {b.Length} elements that differ");
        }

        internal static void Contains(string part, string whole)
        {
            if (whole.IndexOf(part, StringComparison.Ordinal) < 0) throw new CheckException($"'{part}' is not in '{whole}'");
        }

        /// <summary>Exactly this exception or one derived from it.</summary>
        internal static T Throws<T>(Action call) where T : Exception
        {
            try
            {
                call();
            }
            catch (T e)
            {
                return e;
            }
            catch (Exception e)
            {
                throw new CheckException($"expected {typeof(T).Name}, got {e}");
            }
            throw new CheckException($"expected {typeof(T).Name}, nothing was thrown");
        }

        internal static async Task<T> ThrowsAsync<T>(Func<Task> call) where T : Exception
        {
            try
            {
                await call().ConfigureAwait(false);
            }
            catch (T e)
            {
                return e;
            }
            catch (Exception e)
            {
                throw new CheckException($"expected {typeof(T).Name}, got {e}");
            }
            throw new CheckException($"expected {typeof(T).Name}, nothing was thrown");
        }

        /// <summary>The library refused, with this code and this word in what it said.</summary>
        internal static PolyadException Refused(ErrorCode code, string word, Action call)
        {
            var e = Throws<PolyadException>(call);
            Equal(code, e.Code, e.Message + ":");
            Contains(word, e.Message + " " + e.Detail);
            return e;
        }
    }
}

# The Rust crate behind polyad_text (tokenizers, chat templates): one static library, built by cargo from the committed
# Cargo.lock whenever its sources change. Included by cpp_impl/CMakeLists.txt.
set(POLYAD_CARGO_TARGET_DIR "$ENV{POLYAD_CARGO_TARGET_DIR}" CACHE PATH
    "Where cargo keeps its intermediate files; several build folders may share one (default: inside the build folder)")
set(POLYAD_TEXT_RUST_LIBRARY "" CACHE FILEPATH
    "A libpolyad_text_rust.a built elsewhere from these sources, for a machine without Rust")
set(text_rust_dir ${CMAKE_CURRENT_LIST_DIR}/rust)
if(POLYAD_TEXT_RUST_LIBRARY)
    add_library(polyad_text_rust STATIC IMPORTED GLOBAL)
    set_target_properties(polyad_text_rust PROPERTIES IMPORTED_LOCATION ${POLYAD_TEXT_RUST_LIBRARY})
    target_include_directories(polyad_text_rust INTERFACE ${text_rust_dir})
    target_link_libraries(polyad_text_rust INTERFACE Threads::Threads ${CMAKE_DL_LIBS} m)
    target_link_libraries(polyad_text PRIVATE polyad_text_rust)
    return()
endif()
find_program(POLYAD_CARGO cargo PATHS $ENV{HOME}/.cargo/bin /usr/bin DOC "Rust's build tool, 1.85 or newer")
if(NOT POLYAD_CARGO)
    message(FATAL_ERROR "cargo is missing: the tokenizer and the chat templates are built from Rust crates. Install Rust "
                        "1.85 or newer, on Debian 12: apt-get install rustc-web cargo-web; or set POLYAD_CARGO to cargo's path.")
endif()
execute_process(COMMAND ${POLYAD_CARGO} --version OUTPUT_VARIABLE cargo_version ERROR_VARIABLE cargo_error
                RESULT_VARIABLE cargo_status)
string(REGEX MATCH "[0-9]+\\.[0-9]+" cargo_version "${cargo_version}")
if(NOT cargo_status EQUAL 0)
    message(FATAL_ERROR "${POLYAD_CARGO} does not run: ${cargo_error}")
elseif(cargo_version VERSION_LESS 1.85)
    message(FATAL_ERROR "${POLYAD_CARGO} is version ${cargo_version}; 1.85 or newer is needed "
                        "(on Debian 12: apt-get install rustc-web cargo-web)")
endif()
# Debian's cargo must find Debian's rustc, a rustup cargo its own: the compiler that lies beside it.
get_filename_component(cargo_folder ${POLYAD_CARGO} DIRECTORY)
set(cargo_env --unset=RUSTFLAGS --unset=CARGO_ENCODED_RUSTFLAGS --unset=CARGO_BUILD_TARGET)
if(EXISTS ${cargo_folder}/rustc)
    list(APPEND cargo_env RUSTC=${cargo_folder}/rustc)
endif()

if(POLYAD_CARGO_TARGET_DIR)
    set(text_cargo_dir ${POLYAD_CARGO_TARGET_DIR})
else()
    set(text_cargo_dir ${CMAKE_BINARY_DIR}/cargo)
endif()
set(text_rust_library ${CMAKE_BINARY_DIR}/rust/libpolyad_text_rust.a)
file(GLOB_RECURSE text_rust_sources CONFIGURE_DEPENDS ${text_rust_dir}/src/*.rs)

# Copied into the build folder: a shared cargo folder may meanwhile hold another checkout's library. The sanitizers'
# flags stay out of it; C flags mean nothing to a crate without C.
add_custom_command(
    OUTPUT ${text_rust_library}
    COMMAND ${CMAKE_COMMAND} -E env ${cargo_env}
            ${POLYAD_CARGO} build --release --locked --quiet --manifest-path ${text_rust_dir}/Cargo.toml
            --target-dir ${text_cargo_dir}
    COMMAND ${CMAKE_COMMAND} -E make_directory ${CMAKE_BINARY_DIR}/rust
    COMMAND ${CMAKE_COMMAND} -E copy ${text_cargo_dir}/release/libpolyad_text_rust.a ${text_rust_library}
    COMMAND ${CMAKE_COMMAND} -E touch ${text_rust_library}
    DEPENDS ${text_rust_sources} ${text_rust_dir}/Cargo.toml ${text_rust_dir}/Cargo.lock
    COMMENT "Building the Rust crates of text/ (tokenizers, minijinja)"
    VERBATIM)
add_custom_target(polyad_text_cargo DEPENDS ${text_rust_library})

add_library(polyad_text_rust STATIC IMPORTED GLOBAL)
set_target_properties(polyad_text_rust PROPERTIES IMPORTED_LOCATION ${text_rust_library})
target_include_directories(polyad_text_rust INTERFACE ${text_rust_dir})
target_link_libraries(polyad_text_rust INTERFACE Threads::Threads ${CMAKE_DL_LIBS} m)
add_dependencies(polyad_text_rust polyad_text_cargo)
add_dependencies(polyad_text polyad_text_cargo)
target_link_libraries(polyad_text PRIVATE polyad_text_rust)
